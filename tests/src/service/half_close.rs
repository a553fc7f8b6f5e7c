//! The client closes its half; only then does the server answer, with the digest, and close.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::Result;
use crate::digest::{CHUNK, Digester};

pub(super) fn serve(mut stream: &TcpStream) -> Result {
    let (mut digester, mut chunk) = (Digester::default(), vec![0; CHUNK]);
    loop {
        match stream.read(&mut chunk)? {
            0 => break,
            length => digester.update(&chunk[..length]),
        }
    }
    stream.write_all(format!("{}\n", digester.finish()).as_bytes())?;
    Ok(())
}
