//! An API server of Kubernetes in this process, for tests of what reads and writes objects.
//!
//! It speaks the real protocol over TLS on loopback, HTTP/2 and HTTP/1.1: bearer tokens, versions, lists in pages,
//! watches with bookmarks and streaming lists, 410 for what was forgotten, selectors, and refusals as `Status`. It knows
//! every kind of namespaced object, since it looks into none. What real servers do to their clients on bad days is
//! there too: see the methods from [`ApiServer::stop`] on.
mod serve;
mod state;
mod watch;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use lockkeeper::local::pki::Authority;
use serde_json::Value;
use tokio::sync::watch as channel;

pub use state::Audit;
use state::State;

use super::wait::eventually;

/// The server; it ends with this value.
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    account: tempfile::TempDir,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Counts every change of the state, so that whoever waits looks again.
    turn: channel::Sender<u64>,
    run: channel::Sender<Run>,
    /// With HTTP/2, and without.
    tls: [Arc<rustls::ServerConfig>; 2],
    listening: channel::Sender<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Run {
    Serving,
    Stopped,
    Ended,
}

/// How a watch is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// In order, as at its time limit.
    Clean,
    /// In the middle of an event, with the connection's stream reset.
    MidEvent,
    /// With an event that says that its version is gone.
    Expired,
}

impl ApiServer {
    /// Starts one on a free port, without an object.
    pub fn start() -> Self {
        let authority = Authority::mint("lockkeeper API server").unwrap();
        let account = tempfile::tempdir().unwrap();
        std::fs::write(account.path().join("ca.crt"), authority.pem()).unwrap();
        std::fs::write(account.path().join("token"), "first-token\n").unwrap();
        let (run, mut runs) = channel::channel(Run::Serving);
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new("first-token")),
            turn: channel::Sender::new(0),
            run,
            tls: serve::tls(&authority),
            listening: channel::Sender::new(false),
        });
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                tokio::task::LocalSet::new().block_on(&runtime, serve::run(&shared, &mut runs, &tell));
            }
        });
        let address = told.recv().unwrap();
        Self { shared, address, account, thread: Some(thread) }
    }

    /// The variables with which a process finds this server as it would in a pod.
    pub fn env(&self) -> Vec<(String, String)> {
        [
            ("KUBERNETES_SERVICE_HOST", self.address.ip().to_string()),
            ("KUBERNETES_SERVICE_PORT", self.address.port().to_string()),
            ("LOCKKEEPER_SERVICE_ACCOUNT_DIR", self.account.path().display().to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The directory with `token` and `ca.crt`.
    pub fn account(&self) -> &Path {
        self.account.path()
    }

    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = change(&mut self.state());
        self.shared.turn.send_modify(|turn| *turn += 1);
        result
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    // Objects.

    /// Creates the object, or replaces the one of its name.
    pub fn apply(&self, object: impl Into<Value>) {
        self.change(|state| state.apply(object.into()));
    }

    /// Creates or replaces all of them at once.
    pub fn apply_all(&self, objects: impl IntoIterator<Item = Value>) {
        self.change(|state| objects.into_iter().for_each(|object| state.apply(object)));
    }

    /// Deletes an object; there must be one. `plural` as in a URL.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) {
        self.change(|state| state.delete(plural, namespace, name));
    }

    /// An object as it is.
    pub fn object(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        self.state().object(plural, namespace, name)
    }

    /// All objects of a kind.
    pub fn objects(&self, plural: &str) -> Vec<Value> {
        let state = self.state();
        let of_kind = state.objects.iter().filter(|((resource, ..), _)| resource.plural == plural);
        of_kind.map(|(_, object)| object.clone()).collect()
    }

    // What was asked.

    /// Every request so far.
    pub fn requests(&self) -> Vec<Audit> {
        self.state().audit.clone()
    }

    /// The requests for one kind so far.
    pub fn requests_for(&self, plural: &str) -> Vec<Audit> {
        let suffix = format!("/{plural}");
        self.requests().into_iter().filter(|audit| audit.path.ends_with(&suffix)).collect()
    }

    /// How many watches of one kind run now.
    pub fn watches(&self, plural: &str) -> usize {
        self.state().watches.get(plural).copied().unwrap_or(0)
    }

    /// Connections that were opened so far.
    pub fn connections(&self) -> usize {
        self.state().connections
    }

    // Settings.

    /// What `/version` answers as `gitVersion`.
    pub fn version(&self, version: &str) {
        self.change(|state| version.clone_into(&mut state.version));
    }

    /// From now on only `token` is good. It is in the account's file too, unless the test says otherwise there.
    pub fn rotate_token(&self, token: &str) {
        std::fs::write(self.account.path().join("token"), token).unwrap();
        self.change(|state| token.clone_into(&mut state.token));
    }

    /// Answers streaming lists with this status from now on (real servers: 422, old ones 400).
    pub fn refuse_streaming_lists(&self, status: Option<u16>) {
        self.change(|state| state.refuse_streaming = status);
    }

    /// Takes streaming lists as ordinary watches from now on, as servers did that knew none.
    pub fn ignore_streaming_lists(&self) {
        self.change(|state| state.ignore_streaming = true);
    }

    /// Offers no HTTP/2 on connections from now on.
    pub fn only_http1(&self) {
        self.change(|state| state.only_http1 = true);
    }

    /// Refuses everything about one kind with 403 from now on, or no longer.
    pub fn forbid(&self, plural: &str, forbidden: bool) {
        self.change(|state| match forbidden {
            true => state.forbidden.insert(plural.to_owned()),
            false => state.forbidden.remove(plural),
        });
    }

    /// Sends events in pieces of so many bytes, each after a pause.
    pub fn slow(&self, piece: usize, pause: Duration) {
        self.change(|state| state.slow = Some((piece, pause)));
    }

    // Bad days.

    /// Stops listening and cuts every connection. The address stays reserved for [`ApiServer::restart`].
    pub fn stop(&self) {
        self.shared.run.send_replace(Run::Stopped);
        eventually("the server stops", || !*self.shared.listening.borrow());
    }

    /// Listens again, where it did.
    pub fn restart(&self) {
        self.shared.run.send_replace(Run::Serving);
        eventually("the server listens", || *self.shared.listening.borrow());
    }

    /// Ends all watches of one kind that run now.
    pub fn cut(&self, plural: &str, how: Cut) {
        self.change(|state| state.cut(plural, how));
    }

    /// Forgets everything but the present state: whoever knows an older version is told 410.
    pub fn compact(&self) {
        self.change(State::compact);
    }

    /// Forgets the lists of which pages are still to be asked for.
    pub fn expire_pages(&self) {
        self.change(|state| state.pages.clear());
    }

    /// Answers the next requests for one kind with this status.
    pub fn fail_next(&self, plural: &str, times: usize, status: u16) {
        self.change(|state| state.failures.insert(plural.to_owned(), (times, status)));
    }

    /// Keeps the events of one kind back until [`ApiServer::release`]: between kinds, any order can be had.
    pub fn hold(&self, plural: &str) {
        self.change(|state| state.held.insert(plural.to_owned()));
    }

    /// Whether the events of one kind are kept back now.
    pub fn holds(&self, plural: &str) -> bool {
        self.state().held.contains(plural)
    }

    /// Lets the events of one kind go.
    pub fn release(&self, plural: &str) {
        self.change(|state| state.held.remove(plural));
    }

    /// Sends a bookmark to every watch that wants them.
    pub fn bookmark(&self) {
        self.change(|state| state.bookmarks += 1);
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.shared.run.send_replace(Run::Ended);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
