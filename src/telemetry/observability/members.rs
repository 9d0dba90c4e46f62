//! Members of a JSON object, typed, as Go's decoder finds them.

use serde_json::{Map, Value};

use super::Error;

/// Typed members of a JSON object by their name without case; null counts as absent.
pub(super) struct Reader<'a> {
    /// Nothing if the object is absent: then so are its members.
    pub(super) object: Option<&'a Map<String, Value>>,
    pub(super) path: &'static str,
}

impl<'a> Reader<'a> {
    fn value<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(object) = self.object else { return Ok(None) };
        let exact = object.get(name);
        let any = || object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        match exact.or_else(any) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => Err(Error::Config(format!("{}.{name}: expected {expected}", self.path))),
            },
        }
    }

    pub(super) fn object(&self, name: &str) -> Result<Option<&'a Map<String, Value>>, Error> {
        self.value(name, "an object", Value::as_object)
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, Error> {
        self.value(name, "a string", Value::as_str)
    }

    pub(super) fn boolean(&self, name: &str) -> Result<Option<bool>, Error> {
        self.value(name, "true or false", Value::as_bool)
    }

    pub(super) fn integer(&self, name: &str) -> Result<Option<i64>, Error> {
        self.value(name, "an integer (nanoseconds)", Value::as_i64)
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<f64>, Error> {
        self.value(name, "a number", Value::as_f64)
    }
}
