//! `local --rotate-ca`: the documented replacement of the certificate authority, live and under load.
//!
//! The seven steps are those of OpenShift Serverless' documentation. Beside the load, two witnesses are asked, each
//! through the gateway and through the activator: a queue whose certificate is of the new authority from the beginning
//! tells when that is trusted, one that keeps the old authority's tells when that is not trusted any more, on connections
//! that were kept as on new ones.
use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::knative::names;
use crate::local::check::expect;
use crate::local::client::{Connection, Outgoing, Protocol, Trust, dial};
use crate::local::front::Front;
use crate::local::manifests::{HOST, LOCAL_HOSTS, Serials};
use crate::local::pki::{Authority, Mount};
use crate::local::report::Report;
use crate::local::topology::{NAMESPACE, REVISION, StateDir, loopback};
use crate::local::wake::{Own, Pod, Wake, own_address};

/// Old and new authority have one name, as the documented procedure leaves it.
const CA: &str = "lockkeeper local CA";
/// How long a step may take.
const LIMIT: Duration = Duration::from_secs(20);
/// Between two requests of one caller.
const PAUSE: Duration = Duration::from_millis(20);
/// Requests after each step.
const EACH: u8 = 40;
/// Longer than this runs.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

/// Rotates once; `grace` is how long the old authority stays trusted after all certificates were issued again.
///
/// # Errors
/// When something does not start, a request fails, or a step is not in force in time.
pub async fn run(grace: Duration, report: Report) -> io::Result<()> {
    let state = StateDir::create()?;
    let (old, new) = (Authority::mint(CA)?, Authority::mint(CA)?);
    let wake = Wake::start(&old, state.path(), NEVER).await?;
    let mut front = Front::start(wake.manifests(), state.path())?;
    front.ready().await?;
    let witnesses = Witnesses::start(&old, &new, &wake, &front, &state.path().join("witnesses"))?;
    let load = Load::start(&wake, &front, old.der());
    let steps = Steps { report, load: load.clone(), before: Cell::default() };
    let manifests = wake.manifests();

    witnesses.until(OLD, true, &load.roots()).await?;
    witnesses.until(NEW, false, &load.roots()).await?;
    steps.say(0, "all certificates are of the old CA, and a stranger's is refused").await?;
    steps.say(1, "a new CA of the same name").await?;
    manifests.trust_bundle(&[old.pem(), new.pem()])?;
    load.trust(&[old.der(), new.der()]);
    steps.say(2, "it is added to the trust bundle, and to what callers trust").await?;
    witnesses.until(NEW, true, &load.roots()).await?;
    steps.say(3, "gateway and activator have picked it up: a pod that shows it is reached").await?;
    steps.say(4, "the issuer is switched: what is issued from now on is of the new CA").await?;
    manifests.certificates(&new, Serials::of(2))?;
    wake.issue_pod(&new, 0x2002)?;
    issued(&wake, &front, &new).await?;
    steps.say(5, "all certificates are issued again, and served").await?;
    tokio::time::sleep(grace).await;
    witnesses.until(OLD, true, &load.roots()).await?;
    steps.say(6, &format!("{} ms of grace: the old CA is still trusted", grace.as_millis())).await?;
    manifests.trust_bundle(&[new.pem()])?;
    load.trust(&[new.der()]);
    witnesses.until(OLD, false, &load.roots()).await?;
    let refused = "the old CA is removed: gateway and activator refuse it, on kept connections too";
    steps.say(7, refused).await?;
    old_is_refused(&wake, &front, &old).await?;
    steps.say(8, "a caller of the old CA refuses every listener; the load goes on by the new CA alone").await?;
    load.stop().await;

    witnesses.stop()?;
    front.stop()?;
    wake.stop().await
}

/// Tells of each step what was sent meanwhile.
struct Steps {
    report: Report,
    load: Load,
    before: Cell<(u64, u64)>,
}

impl Steps {
    /// Says it once some requests have gone through in this state.
    async fn say(&self, step: u8, what: &str) -> io::Result<()> {
        let counts = &self.load.0;
        let wanted = counts.sent.get() + u64::from(EACH);
        eventually("requests go through", async || counts.sent.get() >= wanted || counts.failed.get() > 0).await?;
        let (sent, failed) = (self.load.0.sent.get(), self.load.0.failed.get());
        let before = self.before.replace((sent, failed));
        let (sent, failed) = (sent - before.0, failed - before.1);
        let text = format!("step {step}  {what}; {sent} requests, {failed} failed");
        let fields =
            [("step", step.into()), ("what", what.into()), ("requests", sent.into()), ("failed", failed.into())];
        self.report.say("rotate-ca", &text, &fields);
        expect(&self.load.0.why.borrow(), failed == 0)
    }
}

/// Every listener shows a certificate of `authority`.
async fn issued(wake: &Wake, front: &Front, authority: &Authority) -> io::Result<()> {
    for (address, name) in listeners(wake, front) {
        let trust = Trust::new(authority.der(), &name);
        eventually(&format!("{name} shows a certificate of the new CA"), async || {
            dial(address, Some(&trust), Protocol::Http1).await.is_ok()
        })
        .await?;
    }
    Ok(())
}

async fn old_is_refused(wake: &Wake, front: &Front, old: &Authority) -> io::Result<()> {
    for (address, name) in listeners(wake, front) {
        let refused = dial(address, Some(&Trust::new(old.der(), &name)), Protocol::Http1).await;
        let reason = refused.err().map(|error| error.to_string()).unwrap_or_default();
        // Both have one name, so that it is the signature that is wrong.
        let right = ["tls_unknown_ca", "BadSignature"].iter().any(|word| reason.contains(word));
        expect(&format!("{name} by the old CA: {reason:?}"), right)?;
    }
    Ok(())
}

/// All TLS listeners on the way, with a name that each proves.
fn listeners(wake: &Wake, front: &Front) -> [(SocketAddr, String); 4] {
    [
        (loopback(front.https_port), HOST.to_owned()),
        (loopback(front.internal_https_port), LOCAL_HOSTS[0].to_owned()),
        (wake.tls, names::SAN_ROUTING.to_owned()),
        ((wake.address(), names::PORT_HTTPS).into(), names::san_user(NAMESPACE)),
    ]
}

async fn eventually(what: &str, right: impl AsyncFn() -> bool) -> io::Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !right().await {
        expect(&format!("not within {LIMIT:?}: {what}"), Instant::now() < deadline)?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Callers that never pause for long: from outside on a kept connection and on new ones, inside the cluster, and straight
/// to the activator.
#[derive(Clone)]
struct Load(Rc<Counts>);

struct Counts {
    sent: Cell<u64>,
    failed: Cell<u64>,
    why: RefCell<String>,
    roots: RefCell<Vec<Vec<u8>>>,
    callers: RefCell<Vec<tokio::task::JoinHandle<()>>>,
    over: Cell<bool>,
}

/// A caller: where, as whom it knows the other side, whether each request has a connection of its own.
#[derive(Clone, Copy)]
struct Caller {
    address: SocketAddr,
    name: &'static str,
    host: &'static str,
    protocol: Protocol,
    fresh: bool,
}

impl Load {
    fn start(wake: &Wake, front: &Front, root: &[u8]) -> Self {
        let load = Self(Rc::new(Counts {
            sent: Cell::new(0),
            failed: Cell::new(0),
            why: RefCell::default(),
            roots: RefCell::new(vec![root.to_vec()]),
            callers: RefCell::default(),
            over: Cell::new(false),
        }));
        let caller = |address, name, host, protocol, fresh| Caller { address, name, host, protocol, fresh };
        let callers = [
            caller(loopback(front.https_port), HOST, HOST, Protocol::Http1, false),
            caller(loopback(front.https_port), HOST, HOST, Protocol::Http1, true),
            caller(loopback(front.internal_https_port), LOCAL_HOSTS[0], LOCAL_HOSTS[0], Protocol::Http2, false),
            caller(wake.tls, names::SAN_ROUTING, HOST, Protocol::Http2, false),
        ];
        for caller in callers {
            let task = tokio::task::spawn_local(load.clone().call(caller));
            load.0.callers.borrow_mut().push(task);
        }
        load
    }

    fn trust(&self, roots: &[&[u8]]) {
        *self.0.roots.borrow_mut() = roots.iter().map(|root| root.to_vec()).collect();
    }

    fn roots(&self) -> Vec<Vec<u8>> {
        self.0.roots.borrow().clone()
    }

    async fn call(self, caller: Caller) {
        let mut kept = None;
        while !self.0.over.get() {
            if let Err(error) = self.once(caller, &mut kept).await {
                self.0.failed.set(self.0.failed.get() + 1);
                *self.0.why.borrow_mut() = format!("{} at {}: {error}", caller.host, caller.address);
                kept = None;
            }
            self.0.sent.set(self.0.sent.get() + 1);
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn once(&self, caller: Caller, kept: &mut Option<Connection>) -> io::Result<()> {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => {
                let trust = Trust { roots: self.roots(), ..Trust::new(&[], caller.name) };
                Connection::open(caller.address, Some(&trust), caller.protocol).await?
            }
        };
        let status = get(&mut connection, caller.host, REVISION).await?;
        expect(&format!("status {status}"), status == 200)?;
        if !caller.fresh {
            *kept = Some(connection);
        }
        Ok(())
    }

    async fn stop(&self) {
        self.0.over.set(true);
        let callers = std::mem::take(&mut *self.0.callers.borrow_mut());
        for caller in callers {
            let _ = caller.await;
        }
    }
}

/// The status of a GET that names a revision, as the gateway does for the activator.
async fn get(connection: &mut Connection, host: &str, revision: &str) -> io::Result<u16> {
    let request = connection
        .request("GET", host, "/")
        .header("knative-serving-namespace", NAMESPACE)
        .header("knative-serving-revision", revision)
        .body(Outgoing::whole(""))
        .map_err(io::Error::other)?;
    connection.fetch(request).await.map(|answer| answer.status)
}

/// The witness of the old CA, and that of the new one.
const OLD: &str = "old";
const NEW: &str = "new";

struct Witnesses {
    pods: Vec<Pod>,
    gateway: SocketAddr,
    activator: SocketAddr,
}

impl Witnesses {
    fn start(old: &Authority, new: &Authority, wake: &Wake, front: &Front, certs: &Path) -> io::Result<Self> {
        let mut pods = Vec::new();
        for (name, authority, serial) in [(OLD, old, 0x6001), (NEW, new, 0x6002)] {
            let dir = certs.join(name);
            let leaf = authority.leaf(&[&names::san_user(NAMESPACE), names::SAN_LEGACY], serial)?;
            Mount::create(&dir)?.publish_leaf(&leaf, authority)?;
            let address = own_address(Own::Witnesses(name == NEW));
            pods.push(Pod::start(&dir, address)?);
            wake.manifests().witness(name, address)?;
        }
        Ok(Self { pods, gateway: loopback(front.http_port), activator: wake.tls })
    }

    /// Waits until the witness is reached, or refused, on both ways.
    async fn until(&self, name: &str, reached: bool, roots: &[Vec<u8>]) -> io::Result<()> {
        let word = if reached { "is reached" } else { "is refused" };
        let host = format!("{name}.default.example.com");
        let trust = Trust { roots: roots.to_vec(), ..Trust::new(&[], names::SAN_ROUTING) };
        // The hosts of the witnesses have no certificates of their own: what matters is the hop behind.
        for (way, address, trust) in [("gateway", self.gateway, None), ("activator", self.activator, Some(&trust))] {
            eventually(&format!("through the {way}, the pod of the {name} CA {word}"), async || {
                let Ok(mut connection) = Connection::open(address, trust, Protocol::Http1).await else {
                    return false;
                };
                let status = get(&mut connection, &host, &format!("{name}-00001")).await;
                status.is_ok_and(|status| if reached { status == 200 } else { [502, 503].contains(&status) })
            })
            .await?;
        }
        Ok(())
    }

    fn stop(self) -> io::Result<()> {
        self.pods.into_iter().try_for_each(Pod::stop)
    }
}
