//! A wire between a process and Postgres that notes each statement it carries, and can be cut.
//!
//! Invariant: nothing that passes is changed. It counts what was sent, whatever the server's statistics have heard of it yet.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Instant,
};

use sqlx::postgres::PgConnectOptions;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    task::{AbortHandle, JoinSet},
};

/// Carries until it is dropped.
pub struct Wire {
    pub url: String,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

#[derive(Default)]
struct Shared {
    sent: Mutex<Vec<(Instant, String)>>,
    calls: Mutex<JoinSet<()>>,
}

impl Wire {
    /// A wire to the database of `url`, whose login needs no password.
    pub async fn to(url: &str) -> Self {
        let options: PgConnectOptions = url.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (user, database) = (options.get_username(), options.get_database().unwrap());
        let port = listener.local_addr().unwrap().port();
        let own = format!("postgres://{user}@127.0.0.1:{port}/{database}?sslmode=disable");
        let shared = Arc::new(Shared::default());
        let noting = shared.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (options, shared) = (options.clone(), noting.clone());
                noting.calls.lock().unwrap().spawn(async move { connect(near, &options, &shared).await });
            }
        });
        Wire { url: own, shared, accepting: accepting.abort_handle() }
    }

    /// What was sent since `begin`, in its order.
    pub fn sent(&self, begin: Instant) -> Vec<String> {
        let sent = self.shared.sent.lock().unwrap();
        sent.iter().filter(|(at, _)| *at >= begin).map(|(_, text)| text.clone()).collect()
    }

    /// When a statement with this in it was first sent since `begin`.
    #[allow(dead_code, reason = "not every test binary that shares this file asks for times")]
    pub fn first(&self, begin: Instant, part: &str) -> Option<Instant> {
        let sent = self.shared.sent.lock().unwrap();
        sent.iter().find(|(at, text)| *at >= begin && text.contains(part)).map(|(at, _)| *at)
    }

    /// Cuts every connection there is; new ones are carried again.
    #[allow(dead_code, reason = "not every test binary that shares this file cuts")]
    pub fn cut(&self) {
        self.shared.calls.lock().unwrap().abort_all();
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn connect(near: TcpStream, options: &PgConnectOptions, shared: &Shared) {
    let _ = near.set_nodelay(true);
    if options.get_host().starts_with('/') || options.get_socket().is_some() {
        let folder = options.get_socket().cloned().unwrap_or_else(|| options.get_host().into());
        let far = UnixStream::connect(folder.join(format!(".s.PGSQL.{}", options.get_port()))).await;
        // The server is away: so is this wire's end of it.
        let Ok(far) = far else { return };
        let (read, write) = far.into_split();
        carry(near, read, write, shared).await;
    } else {
        let Ok(far) = TcpStream::connect((options.get_host(), options.get_port())).await else { return };
        let _ = far.set_nodelay(true);
        let (read, write) = far.into_split();
        carry(near, read, write, shared).await;
    }
}

async fn carry(
    near: TcpStream,
    mut answers: impl AsyncRead + Unpin,
    mut far: impl AsyncWrite + Unpin,
    shared: &Shared,
) {
    let (mut asked, mut back) = near.into_split();
    tokio::select! {
        _ = note(&mut asked, &mut far, shared) => {}
        _ = tokio::io::copy(&mut answers, &mut back) => {}
    }
}

/// Passes messages on and notes those that run a statement: a query in one piece, or the execution of a prepared one.
async fn note(
    asked: &mut (impl AsyncRead + Unpin),
    far: &mut (impl AsyncWrite + Unpin),
    shared: &Shared,
) -> std::io::Result<()> {
    let (mut prepared, mut bound) = (HashMap::new(), String::new());
    // The first message has no type.
    let length = asked.read_u32().await?;
    pass(asked, far, &length.to_be_bytes(), length).await?;
    loop {
        let (kind, length) = (asked.read_u8().await?, asked.read_u32().await?);
        let head: Vec<u8> = [kind].into_iter().chain(length.to_be_bytes()).collect();
        let body = pass(asked, far, &head, length).await?;
        let mut texts = body.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
        let mut text = || texts.next().unwrap_or_default();
        let ran = match kind {
            b'P' => {
                prepared.insert(text(), text());
                continue;
            }
            b'B' => {
                let (_portal, name) = (text(), text());
                bound = prepared.get(&name).cloned().unwrap_or_default();
                continue;
            }
            b'E' => bound.clone(),
            b'Q' => text(),
            _ => continue,
        };
        shared.sent.lock().unwrap().push((Instant::now(), ran));
    }
}

async fn pass(
    asked: &mut (impl AsyncRead + Unpin),
    far: &mut (impl AsyncWrite + Unpin),
    head: &[u8],
    length: u32,
) -> std::io::Result<Vec<u8>> {
    let mut message = head.to_vec();
    message.resize(head.len() + (length as usize).saturating_sub(4), 0);
    asked.read_exact(&mut message[head.len()..]).await?;
    far.write_all(&message).await?;
    Ok(message.split_off(head.len()))
}
