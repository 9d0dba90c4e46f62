//! How `local` speaks: a line for people, or one JSON object a line for machines.
use std::io::Write;

use serde_json::{Map, Value};

/// Where lines go.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// JSON instead of text.
    pub json: bool,
}

impl Report {
    /// Says one thing. A reader that has gone away is no reason to stop serving.
    pub fn say(&self, event: &str, text: &str, fields: &[(&str, Value)]) {
        let mut out = std::io::stdout().lock();
        let _ = if self.json {
            let mut object = Map::new();
            object.insert("event".to_owned(), event.into());
            object.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
            writeln!(out, "{}", Value::Object(object))
        } else {
            writeln!(out, "{text}")
        };
        let _ = out.flush();
    }
}
