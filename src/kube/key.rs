//! Which object: its namespace and name.
use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The namespace and name of an object, in one allocation that clones share. Hash and order are those of
/// `namespace/name` as text, by which maps can be asked too ([`Borrow`]).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// The key of `namespace`/`name`. Neither may hold a slash, as no name in Kubernetes does.
    pub fn new(namespace: &str, name: &str) -> Self {
        let mut text = String::with_capacity(namespace.len() + 1 + name.len());
        text.push_str(namespace);
        text.push('/');
        text.push_str(name);
        Self(text.into())
    }

    /// The namespace; empty for objects that have none.
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The name.
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(_, name)| name)
    }

    /// `namespace/name`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn given_a_map_by_key_when_asked_by_text_then_it_finds_the_entry() {
        let map = HashMap::from([(Key::new("demo", "hello-00001"), 1)]);

        assert_eq!(map.get("demo/hello-00001"), Some(&1));
        assert_eq!(map.get("demo/hello-00002"), None);
    }

    #[test]
    fn given_a_key_then_its_parts_are_what_it_was_made_of() {
        let key = Key::new("demo", "hello");
        assert_eq!((key.namespace(), key.name(), key.to_string().as_str()), ("demo", "hello", "demo/hello"));

        let clusters = Key::new("", "node");
        assert_eq!((clusters.namespace(), clusters.name()), ("", "node"));
    }
}
