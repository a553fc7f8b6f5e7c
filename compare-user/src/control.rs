//! The control socket: one JSON request per line, one JSON answer per line.
//!
//! Every answer has `"ok"`; a refused request has `"error"`. The socket has mode 0600: whoever
//! may open it may release held frames. `docs/control.md` lists requests and answers.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::Sender;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::compare::Side;
use crate::listening;
use crate::privilege::{self, Role};

/// Longest request line.
pub const LONGEST_LINE: u64 = 65_536;

/// Clients served at once, one small thread each; more are turned away with an error.
const CLIENTS: usize = 128;

/// How long a client may be silent, and how long a request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a client asks of a comparator or a relay. Each refuses what it has no use for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The state.
    Status,
    /// Tracked flows.
    Flows {
        /// At most this many.
        #[serde(default = "default_limit")]
        limit: usize,
    },
    /// A checkpoint completed.
    Checkpoint,
    /// One side is lost.
    Failover {
        /// The side whose frames go on. Not given: the one that the process serves, which is the
        /// primary for a comparator and the secondary for a relay.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        survivor: Option<Side>,
    },
    /// Two equal guests run again.
    Rearm,
    /// Lets a class of flows pass uncompared.
    BypassAdd {
        /// As on the command line.
        rule: String,
    },
    /// Takes such a rule back.
    BypassDelete {
        /// As it was added.
        rule: String,
    },
    /// The rules in force.
    BypassList,
    /// What is logged to standard error from now on.
    Log {
        /// As `--log` takes it.
        level: String,
    },
}

fn default_limit() -> usize {
    100
}

/// A request with the place for its answer.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes: an object, or the reason for a refusal.
    pub reply: Sender<Result<Value, String>>,
}

/// The listening socket; removed from the file system when dropped.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
}

impl Server {
    /// Listens on `path` and passes every request on through `calls`.
    ///
    /// A socket file that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// When another process listens there, or the directory does not allow it.
    pub fn start(path: &Path, calls: Sender<Call>) -> io::Result<Self> {
        let listener = listening::unix(path)?;
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || accept(&listener, &calls))?;
        Ok(Self { path: path.to_owned() })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The accepting thread ends with the process.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn accept(listener: &UnixListener, calls: &Sender<Call>) {
    // The clients' threads are started by this one, and so are confined as it is.
    privilege::confine_or_exit(Role::Control);
    let clients = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else {
            // Out of descriptors, most likely: let clients go away first.
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        if clients.fetch_add(1, Ordering::Relaxed) >= CLIENTS {
            clients.fetch_sub(1, Ordering::Relaxed);
            let _ = answer(&mut stream, &Err("too many clients".into()));
            continue;
        }
        let (calls, served) = (calls.clone(), Arc::clone(&clients));
        let spawned = std::thread::Builder::new().name("control-client".into()).spawn(move || {
            if let Err(error) = serve(&stream, &calls) {
                tracing::debug!(%error, "control client left");
            }
            served.fetch_sub(1, Ordering::Relaxed);
        });
        if spawned.is_err() {
            clients.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Serves one client until it leaves: an answer to each of its lines, in order.
///
/// # Errors
/// When the client has been silent for too long, or takes no answers.
pub fn serve(stream: &UnixStream, calls: &Sender<Call>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = (&mut reader).take(LONGEST_LINE).read_until(b'\n', &mut line)?;
        if length == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') {
            let why = if length as u64 == LONGEST_LINE { "line too long" } else { "half a line" };
            return answer(&mut writer, &Err(why.into()));
        }
        answer(&mut writer, &call(&line, calls))?;
    }
}

fn call(line: &[u8], calls: &Sender<Call>) -> Result<Value, String> {
    let request = serde_json::from_slice(line).map_err(|error| format!("bad request: {error}"))?;
    let (reply, answer) = crossbeam_channel::bounded(1);
    calls.send(Call { request, reply }).map_err(|_| "shutting down".to_owned())?;
    answer.recv_timeout(PATIENCE).map_err(|_| "no answer in time".to_owned())?
}

fn answer(stream: &mut UnixStream, result: &Result<Value, String>) -> io::Result<()> {
    let mut object = match result {
        Ok(value) => value.clone(),
        Err(error) => json!({ "error": error }),
    };
    if let Some(fields) = object.as_object_mut() {
        fields.insert("ok".into(), result.is_ok().into());
    }
    let mut line = object.to_string();
    line.push('\n');
    stream.write_all(line.as_bytes())
}

/// Sends one request to a running comparator or relay and returns its answer.
///
/// # Errors
/// When nobody listens on `path`, or the answer is not one.
pub fn ask(path: &Path, request: &Request) -> io::Result<Value> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply)?;
    Ok(serde_json::from_str(&reply)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn echo_server(path: &Path) -> Server {
        let (calls, requests) = crossbeam_channel::unbounded::<Call>();
        std::thread::spawn(move || {
            for call in requests {
                let _ = call.reply.send(Ok(json!({ "asked": call.request })));
            }
        });
        Server::start(path, calls).expect("the directory is ours")
    }

    #[test]
    fn a_request_is_answered_and_the_socket_is_private() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("control");
        let server = echo_server(&path);
        let mode = std::fs::metadata(&path).expect("bound").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let reply = ask(&path, &Request::Flows { limit: 3 }).expect("answered");
        assert_eq!(reply["ok"], true);
        assert_eq!(reply["asked"]["limit"], 3);
        drop(server);
        assert!(!path.exists());
    }

    #[test]
    fn garbage_and_long_lines_get_an_error_and_do_not_disturb_others() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("control");
        let _server = echo_server(&path);
        let long = vec![b'x'; LONGEST_LINE as usize + 10];
        for (sent, said) in [(&b"{]\n"[..], "bad request"), (&long, "line too long")] {
            let mut stream = UnixStream::connect(&path).expect("listening");
            // The server may answer and close before it has read all of a long line.
            let _ = stream.write_all(sent);
            let mut reply = String::new();
            BufReader::new(stream).read_line(&mut reply).expect("an answer");
            assert!(reply.contains(said), "{reply}");
        }
        assert_eq!(ask(&path, &Request::Status).expect("answered")["ok"], true);
    }
}
