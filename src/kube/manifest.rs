//! Manifests: YAML or JSON with any number of objects, in several documents and in lists.
//!
//! A text is cut into its documents first and each is read by itself, so that a broken one costs itself only, and every
//! finding can say where it stands.
use serde_json::Value;

/// An object in a text, or what is wrong in its place.
#[derive(Debug)]
pub(crate) struct Item {
    /// Where it stands, in words: `document 2 (line 17)`, with the item of a list behind.
    pub(crate) place: String,
    /// The object.
    pub(crate) object: Result<Value, String>,
}

/// One document of YAML or JSON.
pub(crate) fn value(text: &str) -> Result<Value, String> {
    if text.trim_start().starts_with('{')
        && let Ok(value) = serde_json::from_str(text)
    {
        return Ok(value);
    }
    serde_saphyr::from_str(text).map_err(|error| {
        let words = error.without_snippet().to_string();
        words.lines().next().unwrap_or_default().to_owned()
    })
}

/// Every object of a text, in order.
pub(crate) fn items(text: &str) -> Vec<Item> {
    let mut items = Vec::new();
    for (index, (line, document)) in documents(text).into_iter().enumerate() {
        let place = format!("document {} (line {line})", index + 1);
        match value(document) {
            Ok(Value::Null) => {}
            Ok(value) => unfold(place, value, &mut items),
            Err(why) => items.push(Item { place, object: Err(why) }),
        }
    }
    items
}

/// A list gives its items. Those of a list of one kind may leave their own kind out, as the API does.
fn unfold(place: String, mut value: Value, items: &mut Vec<Item>) {
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default();
    let of_one_kind = kind.strip_suffix("List").filter(|kind| !kind.is_empty()).map(str::to_owned);
    let api_version = value.get("apiVersion").cloned();
    let is_list = kind.ends_with("List") && value.get("items").is_some_and(Value::is_array);
    let Some(Value::Array(listed)) = value.get_mut("items").filter(|_| is_list).map(Value::take) else {
        items.push(Item { place, object: Ok(value) });
        return;
    };
    for (index, mut value) in listed.into_iter().enumerate() {
        if let (Some(kind), Value::Object(object)) = (&of_one_kind, &mut value) {
            object.entry("kind").or_insert_with(|| kind.clone().into());
            if let Some(version) = &api_version {
                object.entry("apiVersion").or_insert_with(|| version.clone());
            }
        }
        items.push(Item { place: format!("{place}, item {}", index + 1), object: Ok(value) });
    }
}

/// The documents of a text with the line on which each begins. A line of three dashes at the margin separates: text
/// within a block is always indented.
fn documents(text: &str) -> Vec<(usize, &str)> {
    let (mut found, mut begin, mut first, mut at) = (Vec::new(), 0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let marks =
            line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if marks {
            found.push((first, text.get(begin..at).unwrap_or_default()));
            (begin, first) = (at, index + 1);
        }
        at += line.len();
    }
    found.push((first, text.get(begin..).unwrap_or_default()));
    found.retain(|(_, document)| !is_blank(document));
    found
}

/// Only comments and separators.
fn is_blank(document: &str) -> bool {
    let mut lines = document.lines().map(str::trim);
    lines.all(|line| line.is_empty() || line.starts_with('#') || line == "---" || line == "...")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let name = |item: Item| match item.object {
            Ok(value) => format!("{}: {}", item.place, value["metadata"]["name"].as_str().unwrap_or("?")),
            Err(_) => format!("{}: broken", item.place),
        };
        items(text).into_iter().map(name).collect()
    }

    #[test]
    fn given_several_documents_when_one_is_broken_then_the_others_are_read() {
        let text =
            "# head\n---\nmetadata: {name: a}\n---\nmetadata: {name: [}\n--- # here\nmetadata:\n  name: c\n...\n";

        assert_eq!(names(text), ["document 1 (line 2): a", "document 2 (line 4): broken", "document 3 (line 6): c"]);
    }

    #[test]
    fn given_dashes_within_a_block_then_they_separate_nothing() {
        let items = items("metadata:\n  name: a\ndata:\n  text: |\n    ---\n    x: y\n");

        assert_eq!(items.len(), 1);
        assert_eq!(items[0].object.as_ref().unwrap()["data"]["text"], "---\nx: y\n");
    }

    #[test]
    fn given_lists_in_yaml_and_json_then_their_items_are_objects_of_their_kind() {
        let yaml = "apiVersion: v1\nkind: ConfigMapList\nitems:\n- metadata: {name: a}\n- metadata: {name: b}\n";
        assert_eq!(names(yaml), ["document 1 (line 1), item 1: a", "document 1 (line 1), item 2: b"]);
        let first = items(yaml).remove(0).object.unwrap();
        assert_eq!((first["kind"].as_str(), first["apiVersion"].as_str()), (Some("ConfigMap"), Some("v1")));

        let json = r#"{"apiVersion":"v1","kind":"List","items":[{"kind":"Secret","metadata":{"name":"s"}}]}"#;
        assert_eq!(names(json), ["document 1 (line 1), item 1: s"]);
    }

    #[test]
    fn given_nothing_but_comments_then_there_is_no_object() {
        assert!(items("").is_empty());
        assert!(items("---\n# nothing\n---\n\n").is_empty());
    }

    proptest::proptest! {
        /// Whatever stands in a file, each finding says where, and nothing ends the process.
        #[test]
        fn given_any_text_when_read_then_every_item_stands_on_a_line_of_it(text in "[-a:\\[\\]{}&*!|>'\" #\n\u{e9}.]{0,120}") {
            let lines = text.split('\n').count();
            for (index, item) in items(&text).into_iter().enumerate() {
                let line: usize = item.place.split(['(', ')']).nth(1).unwrap().trim_start_matches("line ").parse().unwrap();
                proptest::prop_assert!((1..=lines).contains(&line), "{}", item.place);
                proptest::prop_assert!(item.place.starts_with("document ") && index <= lines);
            }
        }
    }

    #[test]
    fn given_quoted_numbers_then_they_stay_text() {
        let value = value("data:\n  rate: \"0.5\"\n  on: 'true'\n  port: 8080\n").unwrap();
        assert_eq!(value["data"]["rate"], "0.5");
        assert_eq!(value["data"]["on"], "true");
        assert_eq!(value["data"]["port"], 8080);
    }
}
