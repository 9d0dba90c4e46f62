//! What a kind of object is to us, and which objects of it are wanted.
//!
//! A role declares a type with the few fields that it uses and implements [`Object`] for it; the sources do the rest.
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::kube::key::Key;
use crate::kube::place;

/// The names of a namespaced kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version within the group, such as `v1`.
    pub version: &'static str,
    /// As `kind` in a manifest.
    pub kind: &'static str,
    /// As in a URL.
    pub plural: &'static str,
}

impl Kind {
    /// As `apiVersion` in a manifest.
    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }
}

/// An object, shrunk to what is used of it.
pub trait Object: PartialEq + Sized + 'static {
    /// Its kind.
    const KIND: Kind;
    /// What is read of it, a struct with serde's `Deserialize`: fields that it does not name are skipped. It lives for
    /// a moment only.
    type Wire: DeserializeOwned;

    /// The metadata of what was read.
    fn meta_mut(wire: &mut Self::Wire) -> &mut Meta;

    /// What is kept of it; nothing if the object is none of those that are wanted.
    ///
    /// # Errors
    /// A value that can't be used: the field and what was expected.
    fn shrink(wire: Self::Wire) -> Result<Option<Self>, String>;
}

/// What everybody needs of an object's metadata.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    /// Its name.
    pub name: String,
    /// Its namespace; empty if it has none.
    #[serde(default)]
    pub namespace: String,
    /// Another object of the same name has another one. Empty in a manifest.
    #[serde(default)]
    pub uid: String,
    /// The version of the whole state in which it has its present form. Empty in a manifest.
    #[serde(default)]
    pub resource_version: String,
    /// The version of its specification; 0 in a manifest.
    #[serde(default)]
    pub generation: i64,
    /// Labels.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub labels: Pairs,
    /// Annotations.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub annotations: Pairs,
}

impl Meta {
    /// Its key.
    pub fn key(&self) -> Key {
        Key::new(&self.namespace, &self.name)
    }

    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }

    /// The value of an annotation.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(String::as_str)
    }
}

/// Labels or annotations.
pub type Pairs = std::collections::BTreeMap<String, String>;

/// Reads what may be absent or `null`, both of which Go's types write for an empty value.
///
/// # Errors
/// A value of another type.
pub fn null_is_empty<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Reads the value of `field` on its own, for kinds whose objects are kept when that field is broken, so that its owner can
/// be told on the object.
///
/// # Errors
/// The field and what is wrong with it.
pub fn field<T: DeserializeOwned>(field: &str, json: &RawValue) -> Result<T, String> {
    serde_json::from_str(json.get()).map_err(|error| place::words_within(field, json.get().as_bytes(), &error))
}

/// Which objects of a kind are wanted. A source asks for no others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only in this namespace.
    pub namespace: Option<String>,
    /// Only the object of this name.
    pub name: Option<String>,
    /// Only objects that bear all of these.
    pub labels: Vec<Label>,
}

/// A condition on labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Label {
    /// The label is there, with any value.
    Exists(String),
    /// The label has this value.
    Is(String, String),
}

impl Selection {
    /// All objects of all namespaces.
    pub fn everywhere() -> Self {
        Self::default()
    }

    /// All objects of one namespace.
    pub fn within(namespace: impl Into<String>) -> Self {
        Self { namespace: Some(namespace.into()), ..Self::default() }
    }

    /// Of those, the one called `name`.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Of those, the ones that bear the label, whatever its value.
    #[must_use]
    pub fn labelled(mut self, label: impl Into<String>) -> Self {
        self.labels.push(Label::Exists(label.into()));
        self
    }

    /// Of those, the ones whose label has this value.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push(Label::Is(label.into(), value.into()));
        self
    }

    /// Whether an object is one of them.
    pub fn includes(&self, meta: &Meta) -> bool {
        let is = |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
        let bears = |label: &Label| match label {
            Label::Exists(name) => meta.labels.contains_key(name),
            Label::Is(name, value) => meta.label(name) == Some(value),
        };
        is(&self.namespace, &meta.namespace) && is(&self.name, &meta.name) && self.labels.iter().all(bears)
    }

    /// The label selector as the API writes it; empty if there is none.
    pub fn label_selector(&self) -> String {
        let write = |label: &Label| match label {
            Label::Exists(name) => name.clone(),
            Label::Is(name, value) => format!("{name}={value}"),
        };
        self.labels.iter().map(write).collect::<Vec<_>>().join(",")
    }
}

/// An object as a source read it.
pub(crate) struct Read<T> {
    pub(crate) key: Key,
    /// A number for its uid: another object of the same name has another one.
    pub(crate) uid: u64,
    /// The object; none if it is of no interest.
    pub(crate) object: Option<T>,
}

/// Why an object was not read.
#[derive(Debug, PartialEq)]
pub(crate) struct Unreadable {
    /// The object, if that much could be read.
    pub(crate) key: Option<Key>,
    /// The field and what is wrong with it.
    pub(crate) why: String,
}

/// Reads one object.
pub(crate) fn read<T: Object>(json: &[u8], selection: &Selection) -> Result<Read<T>, Unreadable> {
    read_in(json, selection, "")
}

/// Reads one object. Without a namespace it is in `namespace`.
pub(crate) fn read_in<T: Object>(json: &[u8], selection: &Selection, namespace: &str) -> Result<Read<T>, Unreadable> {
    match serde_json::from_slice(json) {
        Ok(wire) => judge(wire, selection, namespace),
        Err(error) => {
            let key = key_alone(json).map(|key| match key.namespace() {
                "" => Key::new(namespace, key.name()),
                _ => key,
            });
            Err(Unreadable { key, why: place::words(json, &error) })
        }
    }
}

fn judge<T: Object>(mut wire: T::Wire, selection: &Selection, namespace: &str) -> Result<Read<T>, Unreadable> {
    let meta = T::meta_mut(&mut wire);
    if meta.namespace.is_empty() {
        meta.namespace.push_str(namespace);
    }
    let (key, uid, wanted) = (meta.key(), number(&meta.uid), selection.includes(meta));
    let object = match wanted.then(|| T::shrink(wire)) {
        None => None,
        Some(Ok(object)) => object,
        Some(Err(why)) => return Err(Unreadable { key: Some(key), why }),
    };
    Ok(Read { key, uid, object })
}

/// The key of an object whose other fields may be broken.
pub(crate) fn key_alone(json: &[u8]) -> Option<Key> {
    #[derive(Deserialize)]
    struct Head {
        metadata: Names,
    }
    #[derive(Deserialize)]
    struct Names {
        name: String,
        #[serde(default)]
        namespace: String,
    }
    let head: Head = serde_json::from_slice(json).ok()?;
    Some(Key::new(&head.metadata.namespace, &head.metadata.name))
}

fn number(uid: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    hasher.finish()
}
