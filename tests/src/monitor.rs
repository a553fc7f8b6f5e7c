//! A QMP client of the test's own, and a wire that listens to another's.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::Result;

/// Between two attempts.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to a QMP socket, negotiated.
#[derive(Debug)]
pub struct QmpClient {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
    /// What QEMU said of itself.
    pub greeting: Value,
}

impl QmpClient {
    /// Connects, waits for the greeting and leaves negotiation mode.
    ///
    /// # Errors
    /// When nobody listens within `within`, or what does is not QMP.
    pub fn connect(path: &Path, within: Duration) -> Result<Self> {
        let deadline = Instant::now() + within;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < deadline => thread::sleep(LOOK_AGAIN),
                Err(error) => return Err(error).context(path.display().to_string()),
            }
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        let lines = BufReader::new(stream.try_clone()?);
        let mut client = Self { stream, lines, greeting: Value::Null };
        client.greeting = client.next()?;
        ensure!(client.greeting["QMP"].is_object(), "no greeting: {}", client.greeting);
        client.execute("qmp_capabilities", &json!({}))?;
        Ok(client)
    }

    fn next(&mut self) -> Result<Value> {
        let mut line = String::new();
        ensure!(self.lines.read_line(&mut line)? > 0, "QEMU has closed the monitor");
        Ok(serde_json::from_str(&line)?)
    }

    /// Executes a command and returns its answer; events that come before it are dropped.
    ///
    /// # Errors
    /// When QEMU refuses it.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let line = json!({ "execute": command, "arguments": arguments });
        self.stream.write_all(format!("{line}\n").as_bytes())?;
        loop {
            let mut message = self.next()?;
            if message["error"].is_object() {
                bail!("{command}: {}", message["error"]);
            }
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
        }
    }
}

/// A QMP socket in front of another that keeps what its clients ask.
#[derive(Debug)]
pub struct ListeningWire {
    path: PathBuf,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl ListeningWire {
    /// Listens at `path` and connects each client to the socket at `monitor`.
    ///
    /// With `claims_colo` it answers questions about the migration by itself: a COLO primary. All
    /// else, events above all, is QEMU's own.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn new(path: PathBuf, monitor: PathBuf, claims_colo: bool) -> Result<Self> {
        let listener = UnixListener::bind(&path)?;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&asked);
        thread::spawn(move || {
            // Ends with the process: nobody connects once the test is over.
            for client in listener.incoming().map_while(std::io::Result::ok) {
                if let Ok(monitor) = UnixStream::connect(&monitor) {
                    carry(client, monitor, &record, claims_colo);
                }
            }
        });
        Ok(Self { path, asked })
    }

    /// Where clients connect.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until `command` has been asked `times` times and returns the last one's arguments.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub fn expect(&self, command: &str, times: usize) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            let mut matching = asked.iter().filter(|line| line["execute"] == command);
            if let Some(line) = matching.nth(times - 1) {
                return Ok(line["arguments"].clone());
            }
            ensure!(Instant::now() < deadline, "no {command} came, only {asked:?}");
            drop(asked);
            thread::sleep(LOOK_AGAIN);
        }
    }
}

/// Carries one connection both ways until either side ends.
fn carry(
    client: UnixStream,
    monitor: UnixStream,
    record: &Arc<Mutex<Vec<Value>>>,
    claims_colo: bool,
) {
    let (Ok(answers), Ok(mut back)) = (monitor.try_clone(), client.try_clone()) else { return };
    thread::spawn(move || {
        let _ = std::io::copy(&mut &answers, &mut back);
        let _ = back.shutdown(Shutdown::Both);
    });
    let record = Arc::clone(record);
    thread::spawn(move || {
        let Ok(mut own_answers) = client.try_clone() else { return };
        for line in BufReader::new(client).lines().map_while(std::io::Result::ok) {
            let Ok(asked) = serde_json::from_str::<Value>(&line) else { break };
            let claim = claims_colo
                && ["query-migrate", "query-colo-status"]
                    .map(Value::from)
                    .contains(&asked["execute"]);
            let (to, line) = if claim {
                let colo = json!({ "status": "colo", "mode": "primary" });
                (
                    &mut own_answers as &mut dyn Write,
                    json!({ "return": colo, "id": asked["id"] }).to_string(),
                )
            } else {
                (&mut &monitor as &mut dyn Write, line)
            };
            record.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
            if to.write_all(format!("{line}\n").as_bytes()).is_err() {
                break;
            }
        }
        let _ = monitor.shutdown(Shutdown::Both);
    });
}
