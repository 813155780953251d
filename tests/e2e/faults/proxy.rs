//! A proxy between clients and a broker which makes the network bad: slow, narrow, silent, or cut. The
//! broker's advertised listener has to name it, or clients go past it.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// What is forwarded at once, at most.
const PIECE: usize = 16 * 1024;

/// What the network does to every connection. Nothing is lost by it: what is held up arrives when
/// the weather has changed, as TCP would have sent it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    Clear,
    /// Every piece of data arrives so much later.
    Late(Duration),
    /// So many bytes a second get through, each way on each connection.
    Narrow(u32),
    /// Nothing arrives, new connections neither, and nothing is closed: a black hole.
    Silent,
    /// What clients send arrives; what the broker answers does not.
    AnswersHeld,
}

/// What happens at once to every connection that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// Both ends are told, by RST.
    Reset,
    /// The broker's end is closed; the client's stays open and is never heard of again, as when a
    /// firewall has forgotten it.
    HalfOpen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    ToBroker,
    ToClient,
}

impl Weather {
    fn holds_up(self, way: Way) -> bool {
        match self {
            Self::Clear | Self::Late(_) | Self::Narrow(_) => false,
            Self::Silent => true,
            Self::AnswersHeld => way == Way::ToClient,
        }
    }

    /// How long a piece of data takes.
    fn delay(self, bytes: usize) -> Duration {
        match self {
            Self::Late(delay) => delay,
            Self::Narrow(rate) => Duration::from_secs(1) * bytes as u32 / rate,
            Self::Clear | Self::Silent | Self::AnswersHeld => Duration::ZERO,
        }
    }
}

/// A proxy of one broker. Dropping it closes everything.
#[derive(Debug)]
pub struct Proxy {
    pub port: u16,
    weather: watch::Sender<Weather>,
    /// The last cut, and how many there were.
    cuts: watch::Sender<(u32, Cut)>,
    open: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl Proxy {
    /// Listens on `port` and forwards to `broker`, a port too, both on 127.0.0.1.
    #[track_caller]
    pub fn start(port: u16, broker: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime
            .block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, port)))
            .expect("the port is free");
        let (weather, sky) = watch::channel(Weather::Clear);
        let (cuts, knife) = watch::channel((0, Cut::Reset));
        let open = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&open);
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (sky, knife) = (sky.clone(), knife.clone());
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    counted.fetch_add(1, Ordering::Relaxed);
                    // An error is the end of a connection, which both ends see.
                    let _ = forward(client, broker, sky, knife).await;
                    counted.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self {
            port,
            weather,
            cuts,
            open,
            _runtime: runtime,
        }
    }

    /// Changes the weather for all connections, also those to come.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Resets every connection; new ones are welcome.
    pub fn reset(&self) {
        self.cut(Cut::Reset);
    }

    /// Leaves every client alone with a connection whose other end is gone; new ones are welcome.
    pub fn half_open(&self) {
        self.cut(Cut::HalfOpen);
    }

    #[track_caller]
    fn cut(&self, how: Cut) {
        assert!(self.open.load(Ordering::Relaxed) > 0, "nobody is connected");
        self.cuts.send_modify(|(number, last)| {
            *number += 1;
            *last = how;
        });
    }
}

/// One connection, until either end closes it or it is cut.
async fn forward(
    mut client: TcpStream,
    broker: u16,
    mut sky: watch::Receiver<Weather>,
    mut knife: watch::Receiver<(u32, Cut)>,
) -> io::Result<()> {
    // Nobody hears of a cut after the last proxy is gone, and nobody waits for one.
    let gone = |_| io::Error::from(io::ErrorKind::ConnectionAborted);
    knife.mark_unchanged();
    sky.wait_for(|weather| !weather.holds_up(Way::ToBroker))
        .await
        .map_err(gone)?;
    let mut upstream = TcpStream::connect((Ipv4Addr::LOCALHOST, broker)).await?;
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    {
        let (from_client, to_client) = client.split();
        let (from_broker, to_broker) = upstream.split();
        tokio::select! {
            ended = pump(from_client, to_broker, Way::ToBroker, sky.clone()) => return ended,
            ended = pump(from_broker, to_client, Way::ToClient, sky) => return ended,
            cut = knife.changed() => cut.map_err(gone)?,
        }
    }
    let (_, how) = *knife.borrow();
    match how {
        Cut::Reset => {
            client.set_zero_linger()?;
            upstream.set_zero_linger()
        }
        Cut::HalfOpen => {
            drop(upstream);
            std::future::pending().await
        }
    }
}

/// Forwards one way of a connection, as the weather allows.
async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    way: Way,
    mut sky: watch::Receiver<Weather>,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let bytes = from.read(&mut piece).await?;
        if bytes == 0 {
            return Ok(());
        }
        let delay = sky.borrow().delay(bytes);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let cleared = sky.wait_for(|weather| !weather.holds_up(way)).await;
        cleared.map_err(|_| io::Error::from(io::ErrorKind::ConnectionAborted))?;
        to.write_all(&piece[..bytes]).await?;
    }
}
