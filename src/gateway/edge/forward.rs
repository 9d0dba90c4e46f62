//! Sends a request to one of its backend's upstreams, and to another one when the first did not take it.
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderName;
use http::header::HeaderValue;

use crate::gateway::backends::{Place, Protocol, State, Upstream};
use crate::gateway::edge::observe::Went;
use crate::gateway::edge::way::Way;
use crate::gateway::edge::{caller, decide};
use crate::gateway::live::Live;
use crate::http::cause::Cause;
use crate::http::dial::Tls;
use crate::http::pools::Pools;
use crate::http::proxy::{Failure, Prepared, Replay, unreached};
use crate::http::{Request, Response};

/// How often a request that nobody took is sent to another upstream.
const TRIES: usize = 3;
/// How long an upstream that did not take a connection is asked last.
const ASIDE: Duration = Duration::from_secs(5);
/// How long a name that was looked up is taken for known (Envoy's `dns_refresh_rate`).
const NAME_TIME: Duration = Duration::from_secs(5);

/// Milliseconds until the upstream's response began.
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

/// A request on its way to an upstream.
struct Sending {
    prepared: Prepared,
    began: Instant,
    /// It has gone with an upstream once.
    lost: bool,
}

/// What became of a request that was offered.
#[allow(clippy::large_enum_variant, reason = "it lives for a moment, in the future of one request")]
enum Offered {
    Answered(Response),
    /// There is no response, and there will be none.
    Over(Cause),
    /// Nobody took it, or who took it is gone without a word: it can be offered to others.
    Whole(Box<Sending>, Cause),
}

/// Connections of one worker to upstreams, and what it knows of them.
pub struct Upstreams {
    live: Arc<Live>,
    pools: Rc<Pools>,
    retry_lost: bool,
    next: Cell<usize>,
    aside: RefCell<HashMap<SocketAddr, Instant>>,
    names: RefCell<HashMap<Arc<str>, (Instant, std::net::IpAddr)>>,
}

impl Upstreams {
    /// Upstreams over `pools`. Workers begin at different ones. With `retry_lost`, a request that is lost with its
    /// upstream goes to another one, where that is safe.
    #[must_use]
    pub fn new(live: Arc<Live>, pools: Rc<Pools>, retry_lost: bool, worker: usize) -> Self {
        let next = Cell::new(worker.wrapping_mul(7919));
        Self { live, pools, retry_lost, next, aside: RefCell::default(), names: RefCell::default() }
    }

    /// Sends a request on by `way`, and by another one if the routes have changed when nobody takes it; once
    /// `approved`, only by one that the approval is good for. `host` is the caller's. Notes where it went in `went`.
    ///
    /// # Errors
    /// Why there is no response.
    pub async fn send(
        &self,
        mut request: Request,
        mut way: Way,
        host: &str,
        approved: bool,
        random: impl Fn() -> u32,
        went: &Went,
    ) -> Result<Response, Cause> {
        let settings = self.live.settings.load();
        let call = request.call.clone();
        let forwarded_for = caller::describe(&mut request.head.headers, &call.connection, &settings, &random);
        drop(settings);
        let mut prepared = Prepared::with(request, Replay::Idempotent, forwarded_for)?;
        if self.retry_lost {
            prepared = prepared.kept();
        }
        let mut sending = Sending { prepared, began: Instant::now(), lost: false };
        for _ in 0..TRIES {
            let state = Arc::clone(&way.backend.state());
            let (whole, cause) = match self.offer(sending, &state, went).await {
                Offered::Answered(response) => return Ok(response),
                Offered::Over(cause) => return Err(cause),
                Offered::Whole(whole, cause) => (*whole, cause),
            };
            sending = whole;
            if !Arc::ptr_eq(&state, &way.backend.state()) {
                // The addresses have changed meanwhile.
                continue;
            }
            let approved_for = approved.then(|| way.route.clone());
            let other = decide::again(&self.live, &call.connection, &mut sending.prepared, host, way, &random);
            way = other.filter(|other| approved_for.is_none_or(|route| other.is_as(&route))).ok_or(cause)?;
            went.backend.set(Some(way.backend.clone()));
        }
        Err(Cause::NoUpstream("no_endpoints"))
    }

    /// Offers a request to upstreams until one takes it.
    async fn offer(&self, mut sending: Sending, state: &State, went: &Went) -> Offered {
        let candidates = match self.candidates(&state.place).await {
            Ok(candidates) => candidates,
            Err(cause) => return Offered::Whole(Box::new(sending), cause),
        };
        // Nothing but HTTP/1.1 carries an upgrade to servers that don't know extended CONNECT.
        let h2 = state.protocol == Protocol::Http2 && !sending.prepared.is_upgrade();
        let mut last = Cause::NoUpstream("no_endpoints");
        for upstream in candidates {
            let tls = upstream.expected.map(|expected| Tls {
                connector: self.live.connector.clone(),
                trust: self.live.trust.clone(),
                expected,
            });
            went.address.set(Some(upstream.address));
            let pool = self.pools.pool(upstream.address, tls.as_ref());
            match sending.prepared.send_over(&pool, h2).await {
                Ok(mut response) => {
                    let time = u64::try_from(sending.began.elapsed().as_millis()).unwrap_or(u64::MAX);
                    response.headers_mut().insert(SERVICE_TIME, HeaderValue::from(time));
                    if !self.aside.borrow().is_empty() {
                        self.aside.borrow_mut().remove(&upstream.address);
                    }
                    return Offered::Answered(response);
                }
                Err(Failure::Taken(cause)) => return Offered::Over(at_the_edge(cause)),
                Err(Failure::Lost(_, cause)) if sending.lost => return Offered::Over(at_the_edge(cause)),
                Err(Failure::Lost(again, cause)) => {
                    tracing::debug!(upstream = %upstream.address, %cause, "an upstream is gone");
                    self.aside.borrow_mut().insert(upstream.address, Instant::now() + ASIDE);
                    last = at_the_edge(cause);
                    (sending.prepared, sending.lost) = (*again, true);
                }
                Err(Failure::Unreached(unsent, error)) => {
                    tracing::debug!(upstream = %upstream.address, %error, "an upstream took no connection");
                    self.aside.borrow_mut().insert(upstream.address, Instant::now() + ASIDE);
                    last = at_the_edge(unreached(error));
                    sending.prepared = *unsent;
                }
            }
        }
        Offered::Whole(Box::new(sending), last)
    }

    /// Forgets upstreams that were put aside long ago, and idle connections. To be called each second or so.
    pub fn sweep(&self, now: Instant) {
        self.aside.borrow_mut().retain(|_, until| *until > now);
        self.names.borrow_mut().retain(|_, (until, _)| *until > now);
        self.pools.sweep(now);
    }

    /// The upstreams in the order in which they are tried: round robin, those put aside last.
    async fn candidates(&self, place: &Place) -> Result<Vec<Upstream>, Cause> {
        match place {
            Place::NoService => Err(Cause::NoUpstream("no_service")),
            Place::Addresses(all) if all.is_empty() => Err(Cause::NoUpstream("no_endpoints")),
            Place::Addresses(all) => {
                let start = self.next.get();
                self.next.set(start.wrapping_add(1));
                let round = all.iter().cycle().skip(start % all.len()).take(all.len());
                let aside = self.aside.borrow();
                if aside.is_empty() {
                    return Ok(round.take(TRIES).cloned().collect());
                }
                let (put_aside, good): (Vec<_>, Vec<_>) = round.partition(|u| aside.contains_key(&u.address));
                Ok(good.into_iter().chain(put_aside).take(TRIES).cloned().collect())
            }
            Place::Name(name, port) => {
                let ip = self.look_up(name).await?;
                Ok(vec![Upstream { address: SocketAddr::new(ip, *port), expected: None }])
            }
        }
    }

    /// The connections.
    #[must_use]
    pub fn pools(&self) -> &Pools {
        &self.pools
    }

    /// The first address of a name, for five seconds.
    ///
    /// # Errors
    /// It has none.
    pub async fn look_up(&self, name: &Arc<str>) -> Result<std::net::IpAddr, Cause> {
        let now = Instant::now();
        if let Some((until, ip)) = self.names.borrow().get(name)
            && *until > now
        {
            return Ok(*ip);
        }
        let found = tokio::net::lookup_host((&**name, 0)).await;
        let first = found.map_err(at_lookup)?.next().ok_or(Cause::NoUpstream("name_unknown"))?;
        self.names.borrow_mut().insert(name.clone(), (now + NAME_TIME, first.ip()));
        Ok(first.ip())
    }
}

fn at_lookup(error: std::io::Error) -> Cause {
    Cause::Unavailable(Box::new(Cause::UpstreamRefused(error)))
}

/// A sidecar says 502 when its application fails; from an edge callers expect 503 (Envoy).
fn at_the_edge(cause: Cause) -> Cause {
    match cause.status() {
        http::StatusCode::BAD_GATEWAY if !matches!(cause, Cause::Connect | Cause::RequestBody(_)) => {
            Cause::Unavailable(Box::new(cause))
        }
        _ => cause,
    }
}
