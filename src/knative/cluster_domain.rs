//! The domain of the cluster, such as `cluster.local`.
//!
//! Source: `knative.dev/pkg/network/domain.go`.
use std::fs;
use std::path::Path;

use crate::config::env::Env;

/// What a cluster is called if nothing says otherwise.
pub const DEFAULT: &str = "cluster.local";

/// The cluster's domain: `CLUSTER_DOMAIN`, else what follows `svc.` in the search list of `/etc/resolv.conf`, else
/// [`DEFAULT`]. As in Go, the variable counts only where that file can be read.
pub fn find(env: &dyn Env) -> String {
    find_in(env, Path::new("/etc/resolv.conf"))
}

fn find_in(env: &dyn Env, resolver: &Path) -> String {
    let Ok(text) = fs::read(resolver) else { return DEFAULT.to_owned() };
    if let Some(domain) = env.var("CLUSTER_DOMAIN").filter(|domain| !domain.is_empty()) {
        return domain;
    }
    from_resolver(&String::from_utf8_lossy(&text)).unwrap_or(DEFAULT).to_owned()
}

fn from_resolver(text: &str) -> Option<&str> {
    let searched = text.lines().filter_map(|line| line.strip_prefix("search "));
    let domain = searched.flat_map(|line| line.split(' ')).find_map(|element| element.strip_prefix("svc."))?;
    Some(domain.strip_suffix('.').unwrap_or(domain))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn given_search_lists_then_the_first_element_below_svc_is_the_domain() {
        for (text, expected) in [
            ("search demo.svc.test.example svc.test.example. test.example\n", Some("test.example")),
            ("nameserver 10.0.0.1\nsearch a b\nsearch svc.cluster.local\n", Some("cluster.local")),
            ("searching svc.x\noptions ndots:5\n", None),
            ("", None),
        ] {
            assert_eq!(from_resolver(text), expected, "{text:?}");
        }
    }

    #[test]
    fn given_the_variable_when_the_resolver_file_is_absent_then_it_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("resolv.conf");
        let env = HashMap::from([("CLUSTER_DOMAIN".to_owned(), "test.example".to_owned())]);

        assert_eq!(find_in(&env, &file), DEFAULT);

        fs::write(&file, "search svc.other.example\n").unwrap();
        assert_eq!(find_in(&env, &file), "test.example");
        assert_eq!(find_in(&HashMap::new(), &file), "other.example");
    }
}
