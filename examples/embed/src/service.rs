//! A service: `POST /` with a text answers with its words, each with its count. Texts and answers are streamed, a request has limits that
//! hold, tenants (the header `x-tenant`) take turns, and a busy service says so.
//!
//! ```text
//! curl --data-binary @some.txt http://127.0.0.1:8080/
//! ```

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, channel::Channel};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use stagehost::{
    ChannelSender, Chunks, Ends, Host, HostOptions, Outcome, Plan, PlanOptions, Policy, RunOptions, Running, Stdin,
    Stdout, spec,
};
use tokio::{net::TcpListener, runtime::Handle};

use crate::Error;

/// What a request runs.
const PIPELINE: &str = r#"{
    "version": 1, "timeout": "30s", "limits": {"memory": "64MiB", "cpu_time": "10s"},
    "stages": [{"wasm": "builtin:lower"}, {"wasm": "builtin:words"}, {"wasm": "builtin:count"}]
}"#;
/// How long a client may take for the head of its request.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pieces of a text or an answer that are on their way.
const PIECES: usize = 8;

type Answer = Response<Channel<Bytes, io::Error>>;

/// What all requests share.
#[derive(Clone)]
struct Service {
    host: Host,
    plan: Plan,
}

impl Service {
    async fn new(pipeline: &str, options: HostOptions) -> Result<Self, Error> {
        let plan = Plan::new(&spec::parse(pipeline.as_bytes())?, &PlanOptions::at(".", Policy::wasm_only()))?;
        let host = Host::new(&options.runtime(Handle::current()))?;
        host.prepare(&plan, |_| ()).await?;
        Ok(Self { host, plan })
    }

    async fn serve(self, listener: TcpListener) {
        let service = Arc::new(self);
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Such as too many connections for the descriptors there are: some of them end.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let service = service.clone();
            let answer = service_fn(move |request| {
                let service = service.clone();
                async move { Ok::<_, Infallible>(service.answer(request).await) }
            });
            // What is wrong with one connection is nobody else's trouble.
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), answer);
            tokio::spawn(connection);
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        if request.method() != Method::POST {
            return of_status(StatusCode::METHOD_NOT_ALLOWED, "POST a text");
        }
        let tenant = request.headers().get("x-tenant").and_then(|name| name.to_str().ok()).unwrap_or_default();
        let options = RunOptions::new().group(tenant);
        let ((sender, stdin), (stdout, mut words)) = (Stdin::channel(PIECES), Stdout::channel(PIECES));
        let running = self.host.start(&self.plan, Ends::new().stdin(stdin).stdout(stdout), &options);
        tokio::spawn(feed(request.into_body(), sender));
        // The first of the answer decides on its status.
        match words.next().await {
            None => of_outcome(&running.await),
            Some(first) => {
                let (sender, body) = Channel::new(PIECES);
                tokio::spawn(hand_on(first, words, running, sender));
                Response::new(body)
            }
        }
    }
}

/// Feeds a run with a request's text. One that breaks off fails the run: its sender is dropped and not finished.
async fn feed(mut text: Incoming, sender: ChannelSender) {
    while let Some(frame) = text.frame().await {
        let Ok(frame) = frame else { return };
        if let Ok(piece) = frame.into_data()
            && sender.send(piece).await.is_err()
        {
            return;
        }
    }
    sender.finish();
}

/// Hands on what a run writes. Whoever hangs up stops it: it is dropped. An answer of a run that fails is broken off: it never looks whole.
async fn hand_on(
    first: Bytes,
    mut words: Chunks,
    running: Running,
    mut answer: http_body_util::channel::Sender<Bytes, io::Error>,
) {
    let mut next = Some(first);
    while let Some(piece) = next {
        if answer.send_data(piece).await.is_err() {
            return;
        }
        next = words.next().await;
    }
    let outcome = running.await;
    if !outcome.success {
        answer.abort(io::Error::other(outcome.code));
    }
}

/// What an outcome is over HTTP. The message may name files of this host: clients get the code.
fn of_outcome(outcome: &Outcome) -> Answer {
    let status = match outcome.code.as_str() {
        "ok" => StatusCode::OK,
        "busy" | "shutting-down" => StatusCode::SERVICE_UNAVAILABLE,
        "timed-out" | "limit" | "trap" | "exit" => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    of_status(status, if outcome.success { "" } else { &outcome.code })
}

fn of_status(status: StatusCode, text: &str) -> Answer {
    let (mut sender, body) = Channel::new(1);
    if !text.is_empty() {
        // It has room for one.
        let _ = sender.try_send(hyper::body::Frame::data(Bytes::copy_from_slice(text.as_bytes())));
    }
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
}

/// Serves until it is interrupted, and then ends what goes on.
#[tokio::main]
pub(crate) async fn run(address: &str) -> Result<(), Error> {
    let options = HostOptions::new().max_runs(64).max_queued(256).total_memory(8 << 30);
    let service = Service::new(PIPELINE, options).await?;
    let host = service.host.clone();
    tokio::select! {
        () = service.serve(TcpListener::bind(address).await?) => {}
        asked = interrupted() => asked?,
    }
    host.drain(Duration::from_secs(10)).await;
    Ok(())
}

/// Waits until somebody interrupts the program.
async fn interrupted() -> io::Result<()> {
    let (told, tells) = std::os::unix::net::UnixStream::pair()?;
    told.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGINT, tells)?;
    tokio::net::UnixStream::from_std(told)?.readable().await
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        time::timeout,
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    async fn served(pipeline: &str, options: HostOptions) -> (SocketAddr, Host) {
        let service = Service::new(pipeline, options).await.expect("a service");
        let host = service.host.clone();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(service.serve(listener));
        (address, host)
    }

    /// A request that says how long its text is, and sends so much of it.
    async fn begin(address: SocketAddr, text: &str, length: usize) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let head = format!("POST / HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all((head + text).as_bytes()).await.expect("it is taken");
        stream
    }

    async fn end(mut stream: TcpStream) -> String {
        let mut answer = String::new();
        timeout(LONG, stream.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
        answer
    }

    async fn post(address: SocketAddr, text: &str) -> String {
        end(begin(address, text, text.len()).await).await
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn words_are_counted_for_whoever_asks() {
        let (address, host) = served(PIPELINE, HostOptions::new()).await;
        let answer = post(address, "To be or not to be").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        for line in ["2 to\n", "2 be\n", "1 or\n", "1 not\n"] {
            assert!(answer.contains(line), "{answer}");
        }
        // A text that breaks off is no text.
        let mut broken = begin(address, "To be", 100).await;
        broken.shutdown().await.expect("it hangs up");
        let answer = end(broken).await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(timeout(LONG, host.drain(LONG)).await.expect("in time"), 0);
        assert!(post(address, "late").await.starts_with("HTTP/1.1 503"));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_busy_service_says_so_and_limits_hold() {
        let one = r#"{"version": 1, "limits": {"input_bytes": 1000}, "stages": [{"wasm": "builtin:cat"}]}"#;
        let (address, host) = served(one, HostOptions::new().max_runs(1).max_queued(0)).await;
        let waits = begin(address, "", 2).await;
        let has_begun = async {
            while host.snapshot().runs.is_empty() || host.snapshot().queued > 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, has_begun).await.expect("it begins");
        let busy = post(address, "x").await;
        assert!(busy.starts_with("HTTP/1.1 503") && busy.contains("busy"), "{busy}");
        let mut waits = waits;
        waits.write_all(b"ok").await.expect("it is taken");
        assert!(end(waits).await.contains("ok"));
        let has_ended = async {
            while !host.snapshot().runs.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, has_ended).await.expect("it ends");
        // What is over a limit never looks whole: there is no status, or no end.
        let over = post(address, &"long ".repeat(1000)).await;
        assert!(over.starts_with("HTTP/1.1 422") || !over.ends_with("0\r\n\r\n"), "{over}");
    }
}
