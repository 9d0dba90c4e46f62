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
use crate::http::call::Call;
use crate::http::cause::Cause;
use crate::http::dial::Tls;
use crate::http::pools::Pools;
use crate::http::proxy::{Failure, Prepared, Replay, Sending, unreached};
use crate::http::{Request, Response};
use crate::worker::clock;

/// How often a request that nobody took is sent to another upstream.
const TRIES: usize = 3;
/// How long an upstream that did not take a connection is asked last.
const ASIDE: Duration = Duration::from_secs(5);
/// How long a name that was looked up is taken for known (Envoy's `dns_refresh_rate`).
const NAME_TIME: Duration = Duration::from_secs(5);

/// Milliseconds until the upstream's response began.
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

/// A request that nobody has taken, or who took it is gone without a word: it can be offered to others.
struct Whole {
    prepared: Box<Prepared>,
    /// It has gone with an upstream once.
    lost: bool,
    /// Why nobody took it so far, and who did not.
    last: Option<(Cause, Tried)>,
}

/// An upstream that did not take a request, and as one of which.
#[derive(Clone)]
struct Tried {
    address: SocketAddr,
    of: Arc<State>,
}

/// What became of a request that was offered.
enum Offered {
    Answered(Response),
    /// There is no response, and there will be none.
    Over(Cause),
    Whole(Whole, Cause),
}

/// What the first attempt to send a request is.
#[allow(clippy::large_enum_variant, reason = "nearly always it is the large one")]
enum First {
    /// It is on its way.
    Sent(Sending, Tried),
    /// It has to wait for something, or to choose.
    Whole(Whole),
    /// It can't be sent.
    Over(Cause),
}

/// What another way for a request is chosen by.
struct Asked<'a> {
    call: Rc<Call>,
    host: &'a str,
    approved: bool,
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
    pub fn send<'a>(
        &'a self,
        request: Request,
        way: Way,
        host: &'a str,
        approved: bool,
        random: impl Fn() -> u32 + 'a,
        went: &'a Went,
    ) -> impl Future<Output = Result<Response, Cause>> + 'a {
        // What is large is used up here, or in a box, and not carried along until the response comes.
        let asked = Asked { call: request.call.clone(), host, approved };
        let began = clock::now();
        let mut first = self.first(request, &way, &random, went);
        async move {
            let whole = match first {
                First::Sent(ref mut sending, ref to) => match sending.await {
                    Ok(response) => return Ok(timed(response, began)),
                    Err(failure) => {
                        let (prepared, lost, cause) = self.after(failure, to.address, false)?;
                        Whole { prepared, lost, last: Some((cause, to.clone())) }
                    }
                },
                First::Whole(whole) => whole,
                First::Over(cause) => return Err(cause),
            };
            let response = Box::pin(self.go_round(whole, way, asked, random, went)).await?;
            Ok(timed(response, began))
        }
    }

    /// Begins to send a request, to the upstream whose turn it is if nothing is known against any.
    fn first(&self, mut request: Request, way: &Way, random: impl Fn() -> u32, went: &Went) -> First {
        let forwarded_for = {
            let settings = self.live.settings.load();
            caller::describe(&mut request.head.headers, &request.call.connection, &settings, random)
        };
        let mut prepared = match Prepared::with(request, Replay::Idempotent, forwarded_for) {
            Ok(prepared) => prepared,
            Err(cause) => return First::Over(cause),
        };
        if self.retry_lost {
            prepared = prepared.kept();
        }
        let state = way.backend.state();
        match &state.place {
            Place::Addresses(all) if !all.is_empty() && self.aside.borrow().is_empty() => {
                let upstream = all.get(self.turn() % all.len());
                let Some(upstream) = upstream else { return First::Over(Cause::NoUpstream("no_endpoints")) };
                let sending = self.send_to(prepared, upstream, &state, went);
                First::Sent(sending, Tried { address: upstream.address, of: Arc::clone(&state) })
            }
            _ => First::Whole(Whole { prepared: Box::new(prepared), lost: false, last: None }),
        }
    }

    fn send_to(&self, prepared: Prepared, upstream: &Upstream, state: &State, went: &Went) -> Sending {
        let tls = upstream.expected.as_ref().map(|expected| Tls {
            connector: self.live.connector.clone(),
            trust: self.live.trust.clone(),
            expected: expected.clone(),
        });
        went.address.set(Some(upstream.address));
        let pool = self.pools.pool(upstream.address, tls.as_ref());
        // Nothing but HTTP/1.1 carries an upgrade to servers that don't know extended CONNECT.
        let h2 = state.protocol == Protocol::Http2 && !prepared.is_upgrade();
        prepared.send_over(&pool, h2)
    }

    /// The request that the upstream at `address` did not answer, whether it went with an upstream, and why; or the cause
    /// of a request that it took.
    fn after(&self, failure: Failure, address: SocketAddr, lost: bool) -> Result<(Box<Prepared>, bool, Cause), Cause> {
        let (prepared, lost, cause) = match failure {
            Failure::Taken(cause) => return Err(at_the_edge(cause)),
            Failure::Lost(_, cause) if lost => return Err(at_the_edge(cause)),
            Failure::Lost(again, cause) => {
                tracing::debug!(upstream = %address, %cause, "an upstream is gone");
                (again, true, cause)
            }
            Failure::Unreached(unsent, error) => {
                tracing::debug!(upstream = %address, %error, "an upstream took no connection");
                (unsent, lost, unreached(error))
            }
        };
        self.aside.borrow_mut().insert(address, Instant::now() + ASIDE);
        Ok((prepared, lost, at_the_edge(cause)))
    }

    /// Offers a request to the upstreams of its backend, and to those of another way if the routes have changed.
    async fn go_round(
        &self,
        mut whole: Whole,
        mut way: Way,
        asked: Asked<'_>,
        random: impl Fn() -> u32,
        went: &Went,
    ) -> Result<Response, Cause> {
        for _ in 0..TRIES {
            let state = Arc::clone(&way.backend.state());
            let cause = match self.offer(whole, &state, went).await {
                Offered::Answered(response) => return Ok(response),
                Offered::Over(cause) => return Err(cause),
                Offered::Whole(unsent, cause) => {
                    whole = unsent;
                    cause
                }
            };
            if !Arc::ptr_eq(&state, &way.backend.state()) {
                // The addresses have changed meanwhile.
                continue;
            }
            let approved_for = asked.approved.then(|| way.route.clone());
            let connection = &asked.call.connection;
            let other = decide::again(&self.live, connection, &mut whole.prepared, asked.host, way, &random);
            way = other.filter(|other| approved_for.is_none_or(|route| other.is_as(&route))).ok_or(cause)?;
            went.backend.set(Some(way.backend.clone()));
        }
        Err(Cause::NoUpstream("no_endpoints"))
    }

    /// Offers a request to upstreams until one takes it.
    async fn offer(&self, whole: Whole, state: &Arc<State>, went: &Went) -> Offered {
        let Whole { mut prepared, mut lost, last } = whole;
        let mut candidates = match self.candidates(&state.place).await {
            Ok(candidates) => candidates,
            Err(cause) => return Offered::Whole(Whole { prepared, lost, last: None }, cause),
        };
        let mut cause = Cause::NoUpstream("no_endpoints");
        if let Some((why, tried)) = last.filter(|(_, tried)| Arc::ptr_eq(&tried.of, state)) {
            candidates.retain(|upstream| upstream.address != tried.address);
            cause = why;
        }
        for upstream in candidates {
            match self.send_to(*prepared, &upstream, state, went).await {
                Ok(response) => {
                    self.aside.borrow_mut().remove(&upstream.address);
                    return Offered::Answered(response);
                }
                Err(failure) => match self.after(failure, upstream.address, lost) {
                    Ok(unsent) => (prepared, lost, cause) = unsent,
                    Err(cause) => return Offered::Over(cause),
                },
            }
        }
        Offered::Whole(Whole { prepared, lost, last: None }, cause)
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
                let round = all.iter().cycle().skip(self.turn() % all.len()).take(all.len());
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

    /// Whose turn it is.
    fn turn(&self) -> usize {
        let turn = self.next.get();
        self.next.set(turn.wrapping_add(1));
        turn
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

/// The response to a request that began to be sent at `began`.
fn timed(mut response: Response, began: Instant) -> Response {
    const FEW: [&str; 8] = ["0", "1", "2", "3", "4", "5", "6", "7"];
    let millis = u64::try_from(clock::now().saturating_duration_since(began).as_millis()).unwrap_or(u64::MAX);
    let few = usize::try_from(millis).ok().and_then(|millis| FEW.get(millis));
    let value = few.map_or_else(|| HeaderValue::from(millis), |few| HeaderValue::from_static(few));
    response.headers_mut().insert(SERVICE_TIME, value);
    response
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
