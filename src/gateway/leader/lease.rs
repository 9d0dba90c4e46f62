//! One Lease (`coordination.k8s.io/v1`) at the API server: read, watched and written.
//!
//! Control side. Every write names the version that it replaces, so of two writers one is refused.
use bytes::Bytes;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::kube::api::{Client, Error};
use crate::kube::object::null_is_empty;
use crate::kube::{Key, Kind, Meta, Object, Objects, Selection};

/// Who holds a Lease, and since when, by the holder's clock.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) holder_identity: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) lease_duration_seconds: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) acquire_time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) renew_time: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) lease_transitions: u32,
}

/// A Lease as it was read.
#[derive(Debug, PartialEq)]
pub(super) struct Lease {
    /// Which a write that is to replace it has to name.
    pub(super) version: String,
    pub(super) spec: Spec,
}

#[derive(Deserialize)]
pub(super) struct Wire {
    metadata: Meta,
    #[serde(default, deserialize_with = "null_is_empty")]
    spec: Spec,
}

impl Object for Lease {
    const KIND: Kind = Kind { group: "coordination.k8s.io", version: "v1", kind: "Lease", plural: "leases" };
    type Wire = Wire;

    fn meta_mut(wire: &mut Wire) -> &mut Meta {
        &mut wire.metadata
    }

    fn shrink(wire: Wire) -> Result<Option<Self>, String> {
        Ok(Some(Self { version: wire.metadata.resource_version, spec: wire.spec }))
    }
}

/// A Lease by its name, whether it is there or not.
pub(super) struct Named {
    client: Client,
    key: Key,
}

impl Named {
    pub(super) fn new(client: Client, key: Key) -> Self {
        Self { client, key }
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    pub(super) fn watch(&self) -> Objects<Lease> {
        self.client.objects(Selection::within(self.key.namespace()).named(self.key.name()))
    }

    pub(super) async fn read(&self) -> Result<Option<Lease>, Error> {
        match self.client.request(Method::GET, &self.path(), None).await {
            Ok(bytes) => lease(&bytes).map(Some),
            Err(Error::Refused(refusal)) if refusal.status == StatusCode::NOT_FOUND => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes it; refused with a conflict if it is there by now.
    pub(super) async fn create(&self, spec: &Spec) -> Result<Lease, Error> {
        let answer = self.client.request(Method::POST, &self.collection(), Some(self.body(None, spec))).await?;
        lease(&answer)
    }

    /// Puts `spec` in place of what it said in `version`; refused with a conflict if it says something else by now.
    pub(super) async fn replace(&self, version: &str, spec: &Spec) -> Result<Lease, Error> {
        let answer = self.client.request(Method::PUT, &self.path(), Some(self.body(Some(version), spec))).await?;
        lease(&answer)
    }

    fn collection(&self) -> String {
        let kind = Lease::KIND;
        format!("/apis/{}/namespaces/{}/{}", kind.api_version(), self.key.namespace(), kind.plural)
    }

    fn path(&self) -> String {
        format!("{}/{}", self.collection(), self.key.name())
    }

    fn body(&self, version: Option<&str>, spec: &Spec) -> (&'static str, Bytes) {
        let mut body = json!({
            "apiVersion": Lease::KIND.api_version(),
            "kind": Lease::KIND.kind,
            "metadata": {"namespace": self.key.namespace(), "name": self.key.name()},
            "spec": spec,
        });
        if let Some(version) = version {
            body["metadata"]["resourceVersion"] = version.into();
        }
        ("application/json", Bytes::from(body.to_string()))
    }
}

fn lease(bytes: &[u8]) -> Result<Lease, Error> {
    let wire: Wire = serde_json::from_slice(bytes).map_err(|error| Error::Nonsense(format!("a Lease: {error}")))?;
    Ok(Lease { version: wire.metadata.resource_version, spec: wire.spec })
}

/// As Kubernetes' `MicroTime` has it.
pub(super) fn now() -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    OffsetDateTime::now_utc().format(format).unwrap_or_default()
}
