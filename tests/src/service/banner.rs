//! The server speaks first, as mail servers do.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use crate::Result;

/// What the server says before the client has said anything.
pub(crate) const GREETING: &str = "220 colo.example ready\r\n";
/// What it says before it closes.
pub(crate) const FAREWELL: &str = "221 colo.example closing\r\n";
/// The client's last line.
pub(crate) const QUIT: &str = "QUIT";

/// The answer to a line.
pub(crate) fn answer(line: &str) -> String {
    format!("250 {} bytes: {line}\r\n", line.len())
}

pub(super) fn serve(mut stream: &TcpStream) -> Result {
    stream.write_all(GREETING.as_bytes())?;
    let mut line = String::new();
    let mut lines = BufReader::new(stream);
    while lines.read_line(&mut line)? > 0 {
        let said = line.trim_end();
        if said == QUIT {
            stream.write_all(FAREWELL.as_bytes())?;
            break;
        }
        stream.write_all(answer(said).as_bytes())?;
        line.clear();
    }
    Ok(())
}
