//! The ConfigMaps that the gateway follows while it runs.
//!
//! Control side. One that is missing or can't be used is no obstacle to serving: the defaults count until then. What is
//! wrong is told as an Event as well.
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::events::Events;
use super::kourier::{Kourier, NAME};
use crate::knative::config_map;
use crate::kube::Source;

/// How often a ConfigMap that was not there is looked for.
const PAUSE: Duration = Duration::from_secs(2);
/// How long the gateway waits for a ConfigMap before it goes on with the defaults.
const TIME: Duration = Duration::from_secs(60);

/// A ConfigMap's data.
type Data = BTreeMap<String, String>;

/// The settings of a ConfigMap. While there is none that can be used, the defaults count: it is never an obstacle to
/// serving, and acts as soon as it is there.
pub async fn follow<T: Default + Send + Sync + 'static>(
    source: &Source,
    namespace: &str,
    name: &'static str,
    parse: impl Fn(&Data) -> Result<T, config_map::Invalid> + Clone + 'static,
    events: &Events,
) -> watch::Receiver<Arc<T>> {
    let parse = {
        let (events, namespace) = (events.clone(), namespace.to_owned());
        move |data: &Data| parse(data).inspect_err(|invalid| events.config_map(&namespace, name, &invalid.to_string()))
    };
    let (publish, now) = watch::channel(Arc::new(T::default()));
    let started = config_map::Settings::start(source, namespace, name, parse.clone());
    let first = match tokio::time::timeout(TIME, started).await {
        Ok(Ok(settings)) => Some(settings),
        Ok(Err(unusable)) => {
            tracing::warn!("{name}: {unusable}: the defaults are used until then");
            None
        }
        Err(_) => {
            tracing::warn!("{name}: no answer in {TIME:?}: the defaults are used until then");
            None
        }
    };
    if let Some(settings) = &first {
        publish.send_replace(settings.current());
    }
    let (source, namespace) = (source.clone(), namespace.to_owned());
    tokio::task::spawn_local(async move {
        let settings = match first {
            Some(settings) => settings,
            None => loop {
                tokio::time::sleep(PAUSE).await;
                if let Ok(settings) = config_map::Settings::start(&source, &namespace, name, parse.clone()).await {
                    tracing::info!("{name} is there");
                    break settings;
                }
            },
        };
        let mut changes = settings.changes();
        loop {
            publish.send_replace(changes.borrow_and_update().clone());
            if changes.changed().await.is_err() {
                return;
            }
        }
    });
    now
}

/// How `config-kourier` is read. A mistake at the start leaves the defaults and the authoriser; later ones leave what was before.
pub fn kourier(
    events: &Events,
    namespace: &str,
) -> impl Fn(&Data) -> Result<Kourier, config_map::Invalid> + Clone + 'static {
    let first = Rc::new(Cell::new(true));
    let (events, namespace) = (events.clone(), namespace.to_owned());
    move |data| match Kourier::parse(data) {
        Err(mistake) if first.replace(false) => {
            tracing::warn!("{}: {mistake}: the defaults are used until then", NAME);
            events.config_map(&namespace, NAME, &mistake.to_string());
            Ok(Kourier::without_mistakes(data))
        }
        parsed => {
            first.set(false);
            parsed
        }
    }
}
