//! Which field of a JSON text an error is about.
//!
//! serde_json says the line and column at which it gave up. The way to there is found by reading the text once more,
//! so that the many readers of objects need no bookkeeping of their own, which would make each of them several times as
//! large.

/// The error in words: the field, what is wrong with it. The text has to be the one that the error is about.
pub(crate) fn words(json: &[u8], error: &serde_json::Error) -> String {
    words_within("", json, error)
}

/// The same for a text that is the value of `field`.
pub(crate) fn words_within(field: &str, json: &[u8], error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    let bare = text.strip_suffix(&position).unwrap_or(&text);
    let inner = path(json, offset(json, error.line(), error.column()));
    let dot = if field.is_empty() || inner.is_empty() || inner.starts_with('[') { "" } else { "." };
    match format!("{field}{dot}{inner}") {
        path if path.is_empty() => bare.to_owned(),
        path => format!("{path}: {bare}"),
    }
}

fn offset(json: &[u8], line: usize, column: usize) -> usize {
    let before: usize = json.split_inclusive(|byte| *byte == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    before + column
}

/// A value that is open at some point of the text.
enum Open {
    /// An object, the last key in it, and whether a key comes next.
    Object(String, bool),
    /// A list, and the number of the item.
    List(usize),
}

/// The way to what ends or stands at `offset`: `spec.containers[0].ports`.
fn path(json: &[u8], offset: usize) -> String {
    let mut open: Vec<Open> = Vec::new();
    let mut bytes = json.iter().take(offset).copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' => open.push(Open::Object(String::new(), true)),
            b'[' => open.push(Open::List(0)),
            b'}' | b']' => drop(open.pop()),
            b',' => match open.last_mut() {
                Some(Open::Object(_, key)) => *key = true,
                Some(Open::List(item)) => *item += 1,
                None => {}
            },
            b'"' => {
                let mut string = Vec::new();
                while let Some(byte) = bytes.next().filter(|byte| *byte != b'"') {
                    string.push(byte);
                    if byte == b'\\' {
                        string.extend(bytes.next());
                    }
                }
                if let Some(Open::Object(name, key @ true)) = open.last_mut() {
                    *name = String::from_utf8_lossy(&string).into_owned();
                    *key = false;
                }
            }
            _ => {}
        }
    }
    let mut path = String::new();
    for value in &open {
        match value {
            Open::Object(name, _) if name.is_empty() => {}
            Open::Object(name, _) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(name);
            }
            Open::List(item) => path.push_str(&format!("[{item}]")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Object {
        #[allow(dead_code, reason = "only read")]
        spec: Spec,
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "only read")]
    struct Spec {
        #[serde(default)]
        seconds: u32,
        #[serde(default)]
        ports: Vec<Port>,
        #[serde(default)]
        labels: BTreeMap<String, String>,
    }

    #[derive(Debug, Deserialize)]
    struct Port {
        #[allow(dead_code, reason = "only read")]
        port: u16,
    }

    #[test]
    fn given_a_value_of_a_wrong_kind_then_its_field_is_named() {
        for (json, expected) in [
            (r#"{"a":{"b":[1,{"c":"}]"}]},"spec":{"seconds":"so\"on","ports":[]}}"#, "spec.seconds: invalid type"),
            (r#"{"spec":{"ports":[{"port":1},{"x":[1,2],"port":70000}]}}"#, "spec.ports[1].port: invalid value"),
            (r#"{"spec":{"ports":[{"port":1},{"name":"x"}]}}"#, "spec.ports[1]: missing field `port`"),
            (r#"{"spec":{"labels":{"a.b/c":"d","e":5}}}"#, "spec.labels.e: invalid type: integer `5`"),
            ("{\n  \"spec\": {\n    \"seconds\": -1\n  }\n}", "spec.seconds: invalid value"),
            (r#"{"other":1}"#, "missing field `spec`"),
            ("", "EOF while parsing"),
            ("[]x", "invalid length 0"),
        ] {
            let error = serde_json::from_slice::<Object>(json.as_bytes()).unwrap_err();
            let words = words(json.as_bytes(), &error);
            assert!(words.starts_with(expected), "{json}: {words}");
            assert!(!words.contains("column"), "{words}");
        }
    }

    #[test]
    fn given_the_value_of_a_field_then_its_own_fields_follow_it() {
        for (json, expected) in [
            (r#"{"seconds":"soon"}"#, "spec.seconds: invalid type"),
            (r#"{"ports":[5]}"#, "spec.ports[0]: invalid type"),
            ("5", "spec: invalid type"),
        ] {
            let error = serde_json::from_str::<Spec>(json).unwrap_err();
            let words = words_within("spec", json.as_bytes(), &error);
            assert!(words.starts_with(expected), "{json}: {words}");
        }
    }

    proptest::proptest! {
        #[test]
        fn given_any_text_then_the_way_to_any_place_in_it_can_be_told(text in "[\\[\\]{},:\"a\\\\1 ]{0,60}", at in 0usize..70) {
            path(text.as_bytes(), at);
        }
    }
}
