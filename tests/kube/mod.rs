//! What reads Kubernetes objects, against an API server that speaks the real protocol, and against real directories.
mod certificates;
mod client;
mod directory;
mod outage;
mod settings;
mod watch;

use std::collections::HashMap;
use std::future::Future;
use std::time::{Duration, Instant};

use lockkeeper::kube::source::Flags;
use lockkeeper::kube::{Change, Changes, Objects, Source};

use crate::support::apiserver::ApiServer;
use crate::support::wait::patience;

/// Runs what a role would run on its control side.
fn on_the_control_side<R>(future: impl Future<Output = R>) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

/// The server as a process in a pod finds it.
fn source(server: &ApiServer) -> Source {
    let env: HashMap<String, String> = server.env().into_iter().collect();
    Source::find(&env, &Flags::default()).unwrap()
}

/// Asks again and again until it is so, without blocking what else runs on this thread.
async fn until(what: &str, mut ask: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ask() {
        assert!(start.elapsed() < patience(), "did not happen within {:?}: {what}", patience());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits for something, with a deadline.
async fn within<R>(what: &str, future: impl Future<Output = R>) -> R {
    match tokio::time::timeout(patience(), future).await {
        Ok(result) => result,
        Err(_) => panic!("did not happen within {:?}: {what}", patience()),
    }
}

/// The next change, as `+name` or `-name`.
async fn next<T>(changes: &mut Changes<T>) -> String {
    match within("a change", changes.next()).await {
        Change::Applied(key, _) => format!("+{}", key.name()),
        Change::Deleted(key, _) => format!("-{}", key.name()),
    }
}

/// The names of all objects, in order.
fn names<T>(objects: &Objects<T>) -> Vec<String> {
    let mut names: Vec<String> = objects.all().into_iter().map(|(key, _)| key.name().to_owned()).collect();
    names.sort();
    names
}
