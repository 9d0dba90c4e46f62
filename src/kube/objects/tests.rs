#![allow(clippy::unwrap_used)]
use super::*;

fn key(name: &str) -> Key {
    Key::new("demo", name)
}

fn all(changes: &mut Changes<u32>) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(change) = changes.try_next() {
        told.push(match change {
            Change::Applied(key, object) => format!("+{}={object}", key.name()),
            Change::Deleted(key, object) => format!("-{}={object}", key.name()),
        });
    }
    told
}

#[test]
fn given_a_reader_that_is_slow_when_an_object_changes_often_then_it_is_told_once() {
    let (objects, mut writer) = Objects::new();
    let mut changes = objects.changes();
    for value in 0..1000 {
        writer.apply(&key("a"), 1, value);
        writer.apply(&key("b"), 1, value);
    }

    assert_eq!(changes.pending.queue.borrow().len(), 2);
    assert_eq!(all(&mut changes), ["+a=999", "+b=999"]);
    assert!(all(&mut changes).is_empty());
}

#[test]
fn given_an_object_that_did_not_change_when_given_again_then_nobody_is_told() {
    let (objects, mut writer) = Objects::new();
    writer.apply(&key("a"), 1, 7);
    let mut changes = objects.changes();
    assert_eq!(all(&mut changes), ["+a=7"]);

    writer.apply(&key("a"), 1, 7);
    assert!(all(&mut changes).is_empty());
}

#[test]
fn given_deletions_when_objects_come_again_then_they_are_told_in_order_with_the_version_that_was_known() {
    let (objects, mut writer) = Objects::new();
    writer.apply(&key("a"), 1, 1);
    let mut changes = objects.changes();
    assert_eq!(all(&mut changes), ["+a=1"]);

    writer.delete(&key("a"));
    writer.apply(&key("a"), 2, 2);
    writer.delete(&key("a"));
    writer.apply(&key("a"), 3, 3);
    assert_eq!(all(&mut changes), ["-a=1", "+a=3"]);

    // Replaced without a deletion of its own, as a list shows it.
    writer.apply(&key("a"), 4, 3);
    assert_eq!(all(&mut changes), ["-a=3", "+a=3"]);

    writer.delete(&key("a"));
    writer.delete(&key("never"));
    assert_eq!(all(&mut changes), ["-a=3"]);
}

#[test]
fn given_a_round_when_it_ends_then_what_was_not_in_it_is_gone_and_what_could_not_be_read_is_not() {
    let (objects, mut writer) = Objects::new();
    writer.begin();
    for name in ["a", "b", "c"] {
        writer.apply(&key(name), 1, 1);
    }
    assert!(!objects.is_synced());
    writer.finish();
    assert!(objects.is_synced());
    let mut changes = objects.changes();
    all(&mut changes);

    writer.begin();
    writer.apply(&key("a"), 1, 1);
    writer.keep(&key("b"));
    writer.keep(&key("unknown"));
    assert_eq!(objects.len(), 3, "nothing goes before the round ends");
    writer.finish();
    assert_eq!(all(&mut changes), ["-c=1"]);
    assert_eq!(objects.len(), 2);
}

#[test]
fn given_a_reader_that_begins_later_then_it_is_told_what_is_there() {
    let (objects, mut writer) = Objects::new();
    writer.apply(&key("a"), 1, 1);
    let mut early = objects.changes();
    writer.apply(&key("b"), 1, 2);
    let mut late = objects.changes();

    assert_eq!(all(&mut early), ["+a=1", "+b=2"]);
    let mut told = all(&mut late);
    told.sort();
    assert_eq!(told, ["+a=1", "+b=2"]);
    drop(late);
    writer.apply(&key("c"), 1, 3);
    assert_eq!(objects.0.readers.borrow().len(), 1, "who has gone is forgotten");
    assert_eq!(all(&mut early), ["+c=3"]);
}

#[test]
fn given_nobody_who_holds_the_objects_then_the_writer_knows() {
    let (objects, mut writer) = Objects::new();
    let changes = objects.changes();
    drop(objects);
    assert!(writer.is_read());
    drop(changes);
    assert!(!writer.is_read());
    writer.begin();
    writer.apply(&key("a"), 1, 1);
    writer.finish();
}
