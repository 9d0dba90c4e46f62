//! Secrets: bytes by key. Nothing here prints them.
use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::kube::object::{Pairs, null_is_empty};
use crate::kube::{Kind, Meta, Object};

/// A Secret: its `data`, decoded, with `stringData` of a manifest over it.
#[derive(Clone, PartialEq)]
pub struct Secret {
    /// Values by key.
    pub data: BTreeMap<String, Vec<u8>>,
}

impl Secret {
    /// One value; empty if it is absent.
    pub fn value(&self, key: &str) -> &[u8] {
        self.data.get(key).map(Vec::as_slice).unwrap_or_default()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("keys", &self.data.keys()).finish()
    }
}

/// What is read of a Secret.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wire {
    metadata: Meta,
    #[serde(default, deserialize_with = "null_is_empty")]
    data: Pairs,
    #[serde(default, deserialize_with = "null_is_empty")]
    string_data: Pairs,
}

impl Object for Secret {
    const KIND: Kind = Kind { group: "", version: "v1", kind: "Secret", plural: "secrets" };
    type Wire = Wire;

    fn meta_mut(wire: &mut Wire) -> &mut Meta {
        &mut wire.metadata
    }

    fn shrink(wire: Wire) -> Result<Option<Self>, String> {
        let mut data = BTreeMap::new();
        for (key, text) in wire.data {
            // A manifest may break the line; the API never does.
            let joined: String = text.split_ascii_whitespace().collect();
            let bytes = STANDARD.decode(joined).map_err(|error| format!("data.{key}: expected base64: {error}"))?;
            data.insert(key, bytes);
        }
        data.extend(wire.string_data.into_iter().map(|(key, text)| (key, text.into_bytes())));
        Ok(Some(Self { data }))
    }
}
