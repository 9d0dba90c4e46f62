//! What many objects cost.
use lockkeeper::knative::endpoints::Endpoints;
use lockkeeper::knative::revision::Revision;
use lockkeeper::knative::service::Service;
use lockkeeper::kube::{Selection, Source};

use super::{on_the_control_side, source, within};
use crate::support::apiserver::ApiServer;
use crate::support::objects::{private_endpoints, private_service, public_endpoints, revision};

/// Holds the objects of 10,000 idle revisions in a process of its own and prints what they cost. Run by hand:
/// `cargo test --test lockkeeper -- --ignored --nocapture idle_revisions`.
#[test]
#[ignore = "a measurement; the server's own copy of the objects is in the same process"]
fn given_ten_thousand_idle_revisions_when_read_then_what_they_cost_is_printed() {
    for streams in [true, false] {
        let server = ApiServer::start();
        if !streams {
            server.refuse_streaming_lists(Some(422));
        }
        for i in 0..10_000 {
            let (namespace, name) = (format!("ns-{}", i % 100), format!("service-{i}-00001"));
            server.apply_all([
                revision(&namespace, &name).into(),
                private_endpoints(&namespace, &name).into(),
                public_endpoints(&namespace, &name).subset(&["10.1.2.3", "10.1.2.4"], &[], "http", 8012).into(),
                private_service(&namespace, &name, "10.96.1.1").into(),
            ]);
        }
        let before = resident();
        let held = on_the_control_side(async {
            let source: Source = source(&server);
            let revisions = source.objects::<Revision>(Selection::everywhere());
            let endpoints = source.objects::<Endpoints>(Selection::everywhere());
            let services = source.objects::<Service>(Selection::everywhere());
            within("all are read", async { tokio::join!(revisions.synced(), endpoints.synced(), services.synced()) })
                .await;
            assert_eq!((revisions.len(), endpoints.len(), services.len()), (10_000, 20_000, 10_000));
            resident()
        });
        println!("streaming lists: {streams}; {} KiB for 10,000 revisions", held.saturating_sub(before) / 1024);
    }
}

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
