//! A reload of certificates: the files' text parsed, checked and published.

use criterion::Criterion;
use lockkeeper::local::pki::Authority;
use lockkeeper::tls::identity::{self, Identity};
use lockkeeper::tls::{pem, trust};

fn fixture(path: &str) -> Vec<u8> {
    std::fs::read(format!("{}/certs-fixtures/good/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// So many different authorities, one after the other.
fn bundle(count: usize) -> Vec<u8> {
    (0..count).map(|i| Authority::mint(&format!("authority {i}")).unwrap().pem().to_owned()).collect::<String>().into()
}

pub(crate) fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("reload");
    for kind in ["p256", "rsa2048", "intermediate"] {
        let (certificate, key) = (fixture(&format!("{kind}/tls.crt")), fixture(&format!("{kind}/tls.key")));
        let store = identity::Store::new();
        group.bench_function(format!("identity, {kind}"), |b| {
            b.iter(|| store.publish(Identity::from_pem(&certificate, &key).unwrap()));
        });
    }
    for count in [1, 50] {
        // Two by turns: a bundle that did not change is not published again.
        let bundles = [bundle(count), bundle(count)];
        let store = trust::Store::new();
        let mut turn = bundles.iter().cycle();
        group.bench_function(format!("trust bundle of {count}"), |b| {
            b.iter(|| assert_eq!(store.set_source("bundle", turn.next().unwrap()).valid, count));
        });
        group.bench_function(format!("PEM blocks of a bundle of {count}"), |b| {
            b.iter(|| assert_eq!(pem::blocks(&bundles[0]).len(), count));
        });
    }
    group.finish();
}
