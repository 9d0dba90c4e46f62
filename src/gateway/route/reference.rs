//! The rules of routing told slowly and plainly, to hold the table against.
#![allow(clippy::unwrap_used)]

use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;

use super::compile::{Object, compile};
use super::owners::Owners;
use super::table::{Miss, Side};
use crate::knative::ingress::{Http, Path, PortRef, Rule, Spec, Split};

/// Reads all objects for each request. A route is named by the Service that it leads to.
fn slow(objects: &[Object], side: Side, host: &str, path: &str, tag: Option<&str>) -> Result<String, Miss> {
    let wants =
        |object: &Object, pattern: &str| object.spec.rules.iter().any(|r| patterns(r).iter().any(|p| p == pattern));
    let fits = |pattern: &str| {
        pattern == host
            || pattern == "*"
            || pattern.strip_prefix('*').is_some_and(|suffix| host.len() > suffix.len() && host.ends_with(suffix))
    };
    let mut fitting: Vec<String> =
        objects.iter().flat_map(|o| &o.spec.rules).flat_map(patterns).filter(|p| fits(p)).collect();
    // Exact beats wildcard, a longer wildcard beats a shorter one.
    fitting.sort_by_key(|p| std::cmp::Reverse((p == host, p.len())));
    let miss = if fitting.is_empty() { Miss::Host } else { Miss::Visibility };
    let paths = fitting.iter().map(|pattern| {
        let claimants = objects.iter().filter(|o| wants(o, pattern));
        let owner = claimants.min_by_key(|o| (o.created, &o.namespace, &o.name)).unwrap();
        let rules = owner.spec.rules.iter().filter(|r| patterns(r).contains(pattern));
        let visible = rules.filter(|r| side == Side::Internal || r.visibility != "ClusterLocal");
        visible.flat_map(Rule::paths).collect::<Vec<_>>()
    });
    let paths = paths.into_iter().find(|paths| !paths.is_empty()).ok_or(miss)?;
    let mut best: Option<&Path> = None;
    for candidate in paths {
        let tagged = candidate.headers.get("Tag").is_none_or(|m| tag == Some(&m.exact));
        let longer = best.is_none_or(|b| candidate.prefix().len() > b.prefix().len());
        if path.starts_with(candidate.prefix()) && tagged && longer {
            best = Some(candidate);
        }
    }
    best.map(|p| p.splits()[0].service_name.clone()).ok_or(Miss::Path)
}

fn patterns(rule: &Rule) -> Vec<String> {
    if rule.hosts.is_empty() { vec!["*".to_owned()] } else { rule.hosts.clone() }
}

const HOSTS: &[&str] = &["a.x.y", "b.x.y", "*.x.y", "*.y", "x.y", "a.y", "*", "c"];

fn path() -> impl Strategy<Value = Path> {
    let prefix = prop::sample::select(vec!["", "/", "/f", "/foo", "/foo/", "/bar"]);
    let tag = prop::option::of(prop::sample::select(vec!["s", "t"]));
    (prefix, tag, "[a-z]{6}").prop_map(|(prefix, tag, service)| Path {
        path: prefix.to_owned(),
        headers: tag
            .map(|t| ("Tag".to_owned(), crate::knative::ingress::HeaderMatch { exact: t.to_owned() }))
            .into_iter()
            .collect(),
        splits: Some(vec![Split {
            service_namespace: "ns".to_owned(),
            service_name: service,
            service_port: PortRef::Number(80),
            percent: 100,
            ..Split::default()
        }]),
        ..Path::default()
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let hosts = prop::collection::vec(prop::sample::select(HOSTS), 0..3);
    let paths = prop::collection::vec(path(), 1..4);
    (hosts, any::<bool>(), paths).prop_map(|(hosts, local, paths)| Rule {
        hosts: hosts.into_iter().map(str::to_owned).collect::<std::collections::BTreeSet<_>>().into_iter().collect(),
        visibility: if local { "ClusterLocal" } else { "ExternalIP" }.to_owned(),
        http: Some(Http { paths: Some(paths) }),
    })
}

fn object() -> impl Strategy<Value = Object> {
    ("[a-f]", 0..3_i64, prop::collection::vec(rule(), 1..4)).prop_map(|(name, created, rules)| Object {
        namespace: "ns".to_owned(),
        name,
        created,
        spec: Spec { rules, ..Spec::default() },
        ..Object::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Objects come, change and go; after each step every request takes the route that the plain rules give it.
    #[test]
    fn given_any_objects_when_any_request_is_routed_then_it_goes_where_the_plain_rules_send_it(
        steps in prop::collection::vec((object(), any::<bool>()), 1..8),
        host in prop::sample::select(vec!["a.x.y", "q.x.y", "x.y", "q.y", "c", "d", "q.a.x.y"]),
        path in prop::sample::select(vec!["/", "/f", "/foo", "/foo/bar", "/foobar", "/bar?x"]),
        tag in prop::option::of(prop::sample::select(vec!["s", "t", "u"])),
    ) {
        let mut owners = Owners::default();
        let mut objects: Vec<Object> = Vec::new();
        let mut headers = HeaderMap::new();
        if let Some(tag) = tag {
            headers.insert("tag", HeaderValue::from_static(tag));
        }
        for (object, keep) in steps {
            let key = (object.namespace.clone(), object.name.clone());
            objects.retain(|o| o.name != object.name);
            if keep {
                objects.push(object.clone());
                owners.put(compile(object, |service, _| service.name.clone()).unwrap());
            } else {
                owners.remove(&key);
            }
            let table = owners.table();
            for side in [Side::External, Side::Internal] {
                let found = table.find(side, host, path, &headers).map(|route| route.shares[0].backend.clone());
                prop_assert_eq!(found, slow(&objects, side, host, path, tag));
            }
        }
    }

    /// The loser of a host is told, and told again when it gets it.
    #[test]
    fn given_objects_that_want_one_host_when_the_owner_goes_then_the_next_by_age_has_it(ages in prop::collection::vec(0..5_i64, 2..6)) {
        let mut owners = Owners::default();
        let key = |i: usize| ("ns".to_owned(), format!("o{i}"));
        for (i, created) in ages.iter().enumerate() {
            let spec: Spec = serde_json::from_str(r#"{"rules":[{"hosts":["a"],"http":{"paths":[{"splits":[{"serviceNamespace":"ns","serviceName":"s","servicePort":80}]}]}}]}"#).unwrap();
            let object = Object { namespace: "ns".to_owned(), name: format!("o{i}"), created: *created, spec, ..Object::default() };
            owners.put(compile(object, |_, _| i).unwrap());
        }
        let mut left: Vec<usize> = (0..ages.len()).collect();
        left.sort_by_key(|i| (ages[*i], *i));
        while let Some((first, rest)) = left.split_first() {
            let table = owners.table();
            prop_assert_eq!(table.find(Side::Internal, "a", "/", &HeaderMap::new()).unwrap().shares[0].backend, *first);
            prop_assert!(owners.is_owner(&key(*first), "a") && owners.conflicts(&key(*first)).is_empty());
            for loser in rest {
                prop_assert_eq!(owners.conflicts(&key(*loser)), ["a"]);
            }
            let heirs: Vec<_> = owners.remove(&key(*first)).into_iter().collect();
            prop_assert_eq!(heirs, rest.first().map(|i| key(*i)).into_iter().collect::<Vec<_>>());
            left = rest.to_vec();
        }
        prop_assert!(owners.table().is_empty());
    }
}
