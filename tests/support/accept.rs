//! Listeners whose connections are served beside each other, on a thread and a runtime of their own.
use std::future::Future;
use std::net::TcpListener;
use std::rc::Rc;

use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// Serves each connection to a free port with `serve`; the port. It ends with the test's process.
pub fn accept<F: Future<Output = ()> + 'static>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    run(vec![listener], move |_, socket| serve(socket), std::future::pending());
    port
}

/// A server; dropping it ends it and its connections.
pub struct Serving {
    _stop: oneshot::Sender<()>,
}

/// Serves each connection to one of `listeners` with `serve`, which is told the listener's index.
pub fn accept_all<F: Future<Output = ()> + 'static>(
    listeners: Vec<TcpListener>,
    serve: impl Fn(usize, TcpStream) -> F + Send + 'static,
) -> Serving {
    let (stop, stopped) = oneshot::channel::<()>();
    run(listeners, serve, async {
        let _ = stopped.await;
    });
    Serving { _stop: stop }
}

fn run<F: Future<Output = ()> + 'static>(
    listeners: Vec<TcpListener>,
    serve: impl Fn(usize, TcpStream) -> F + Send + 'static,
    until: impl Future<Output = ()> + Send + 'static,
) {
    for listener in &listeners {
        listener.set_nonblocking(true).unwrap();
    }
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async move {
            let serve = Rc::new(serve);
            for (index, listener) in listeners.into_iter().enumerate() {
                let serve = serve.clone();
                tokio::task::spawn_local(async move {
                    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                    while let Ok((socket, _)) = listener.accept().await {
                        tokio::task::spawn_local(serve(index, socket));
                    }
                });
            }
            until.await;
        });
    });
}
