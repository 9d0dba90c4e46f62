//! Objects, their versions, and what a test has set.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde_json::{Value, json};

use super::Cut;

/// A kind as a URL has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resource {
    /// `v1`, or `serving.knative.dev/v1`.
    pub api: String,
    /// As in a URL.
    pub plural: String,
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Audit {
    /// Its method.
    pub method: String,
    /// Its path, without the query.
    pub path: String,
    /// The parameters of its query, decoded.
    pub query: BTreeMap<String, String>,
    /// The answer's status.
    pub status: u16,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub protocol: String,
}

impl Audit {
    /// One parameter, empty if absent.
    pub fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    /// Whether it is a watch, of whatever sort.
    pub fn is_watch(&self) -> bool {
        matches!(self.parameter("watch"), "true" | "1")
    }
}

/// An object that changed.
#[derive(Clone)]
pub(super) struct Event {
    pub(super) version: u64,
    pub(super) resource: Resource,
    pub(super) before: Option<Value>,
    pub(super) after: Option<Value>,
    /// As it is told: of a deleted object its last state, with the version of the deletion.
    pub(super) told: Value,
}

type Place = (Resource, String, String);

pub(super) struct State {
    pub(super) token: String,
    pub(super) version: String,
    /// The present version.
    pub(super) now: u64,
    pub(super) objects: BTreeMap<Place, Value>,
    pub(super) history: Vec<Event>,
    /// Versions before this one are forgotten.
    pub(super) oldest: u64,
    pub(super) audit: Vec<Audit>,
    /// Lists whose later pages were not asked for yet, by token.
    pub(super) pages: HashMap<String, (u64, Vec<Value>)>,
    pub(super) watches: HashMap<String, usize>,
    /// How often the watches of a kind were cut, and how at last.
    pub(super) cuts: HashMap<String, (u64, Cut)>,
    pub(super) bookmarks: u64,
    pub(super) refuse_streaming: Option<u16>,
    pub(super) ignore_streaming: bool,
    pub(super) forbidden: BTreeSet<String>,
    pub(super) failures: HashMap<String, (usize, u16)>,
    pub(super) held: BTreeSet<String>,
    pub(super) slow: Option<(usize, Duration)>,
    pub(super) only_http1: bool,
    pub(super) connections: usize,
    uids: u64,
}

impl State {
    pub(super) fn new(token: &str) -> Self {
        Self {
            token: token.to_owned(),
            version: "v1.34.1".to_owned(),
            now: 1000,
            objects: BTreeMap::new(),
            history: Vec::new(),
            oldest: 1000,
            audit: Vec::new(),
            pages: HashMap::new(),
            watches: HashMap::new(),
            cuts: HashMap::new(),
            bookmarks: 0,
            refuse_streaming: None,
            ignore_streaming: false,
            forbidden: BTreeSet::new(),
            failures: HashMap::new(),
            held: BTreeSet::new(),
            slow: None,
            only_http1: false,
            connections: 0,
            uids: 0,
        }
    }

    pub(super) fn apply(&mut self, mut object: Value) {
        let text = |object: &Value, at: &str| object.pointer(at).and_then(Value::as_str).map(str::to_owned);
        let kind = text(&object, "/kind").expect("an object has a kind");
        let api = text(&object, "/apiVersion").expect("an object has an apiVersion");
        let name = text(&object, "/metadata/name").expect("an object has a name");
        let namespace = text(&object, "/metadata/namespace").unwrap_or_else(|| "default".to_owned());
        let place = (Resource { api, plural: plural(&kind) }, namespace, name);
        let before = self.objects.get(&place).cloned();
        self.now += 1;
        let uid = match before.as_ref().and_then(|before| text(before, "/metadata/uid")) {
            Some(uid) => uid,
            None => {
                self.uids += 1;
                format!("00000000-0000-4000-8000-{:012x}", self.uids)
            }
        };
        let generation = before.as_ref().map_or(1, |before| {
            let changed = before.get("spec") != object.get("spec");
            before["metadata"]["generation"].as_i64().unwrap_or(0) + i64::from(changed)
        });
        let meta = object["metadata"].as_object_mut().expect("metadata is an object");
        meta.insert("namespace".to_owned(), place.1.clone().into());
        meta.insert("uid".to_owned(), uid.into());
        meta.insert("resourceVersion".to_owned(), self.now.to_string().into());
        meta.insert("generation".to_owned(), generation.into());
        // What real objects are full of, and nobody here reads.
        meta.insert(
            "managedFields".to_owned(),
            json!([{"manager": "test", "fieldsV1": {"f:metadata": {"f:labels": {}}}}]),
        );
        self.record(&place, before, Some(object.clone()), object.clone());
        self.objects.insert(place, object);
    }

    pub(super) fn delete(&mut self, plural: &str, namespace: &str, name: &str) {
        let is = |(resource, ns, n): &&Place| resource.plural == plural && ns == namespace && n == name;
        let place = self.objects.keys().find(is).cloned().expect("there is such an object");
        let before = self.objects.remove(&place);
        self.now += 1;
        let mut told = before.clone().expect("it was there");
        told["metadata"]["resourceVersion"] = self.now.to_string().into();
        self.record(&place, before, None, told);
    }

    fn record(&mut self, place: &Place, before: Option<Value>, after: Option<Value>, told: Value) {
        self.history.push(Event { version: self.now, resource: place.0.clone(), before, after, told });
    }

    pub(super) fn object(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let mut at = self.objects.keys().next();
        // From kind to kind, since tests fill them with thousands.
        while let Some((resource, ..)) = at {
            let place = (resource.clone(), namespace.to_owned(), name.to_owned());
            if resource.plural == plural
                && let Some(object) = self.objects.get(&place)
            {
                return Some(object.clone());
            }
            let after = (
                Resource { plural: format!("{}\0", resource.plural), ..resource.clone() },
                String::new(),
                String::new(),
            );
            at = self.objects.range(after..).next().map(|(place, _)| place);
        }
        None
    }

    pub(super) fn compact(&mut self) {
        // Every version that a client may know is older than this one.
        self.now += 1;
        self.oldest = self.now;
        self.history.clear();
    }

    pub(super) fn cut(&mut self, plural: &str, how: Cut) {
        let cut = self.cuts.entry(plural.to_owned()).or_insert((0, how));
        *cut = (cut.0 + 1, how);
    }
}

/// As Kubernetes forms it.
fn plural(kind: &str) -> String {
    let lower = kind.to_lowercase();
    match lower.as_str() {
        "endpoints" => lower,
        _ if lower.ends_with('s') => format!("{lower}es"),
        _ => format!("{lower}s"),
    }
}

/// What a request selects.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    pub(super) namespace: Option<String>,
    pub(super) fields: Vec<(String, String)>,
    pub(super) labels: Vec<String>,
}

impl Selector {
    pub(super) fn of(namespace: Option<String>, query: &BTreeMap<String, String>) -> Self {
        let list = |name: &str| query.get(name).map(String::as_str).unwrap_or_default().to_owned();
        let parts =
            |text: String| text.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        let fields = parts(list("fieldSelector"))
            .iter()
            .filter_map(|part| part.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        Self { namespace, fields, labels: parts(list("labelSelector")) }
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let meta = &object["metadata"];
        let in_namespace = self.namespace.as_ref().is_none_or(|namespace| meta["namespace"] == namespace.as_str());
        let fields = self.fields.iter().all(|(field, value)| {
            let pointer = format!("/{}", field.replace('.', "/"));
            object.pointer(&pointer).and_then(Value::as_str) == Some(value)
        });
        let label = |name: &str| meta["labels"].get(name).and_then(Value::as_str);
        let labels = self.labels.iter().all(|wanted| {
            if let Some((name, value)) = wanted.split_once("!=") {
                return label(name) != Some(value);
            }
            match wanted.split_once('=') {
                Some((name, value)) => label(name) == Some(value.trim_start_matches('=')),
                None => match wanted.strip_prefix('!') {
                    Some(name) => label(name).is_none(),
                    None => label(wanted).is_some(),
                },
            }
        });
        in_namespace && fields && labels
    }
}
