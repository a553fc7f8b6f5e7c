//! Seeds of the byte-stream targets: kind, how it is cut, the stream.

/// Not cut.
const WHOLE: &[u8] = &[];
/// Three bytes, then one, and so on: through every word.
const TORN: &[u8] = &[3, 1];

fn seed(kind: u8, sizes: &[u8], stream: &[&[u8]]) -> Vec<u8> {
    [&[kind, sizes.len() as u8], sizes, &stream.concat()].concat()
}

fn plain(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes()[..], body].concat()
}

fn vnet(header: &[u8], body: &[u8]) -> Vec<u8> {
    let length = (header.len() + body.len()) as u32;
    let words = [length.to_be_bytes(), (header.len() as u32).to_be_bytes()].concat();
    [&words[..], header, body].concat()
}

pub(super) fn framing() -> Vec<(&'static str, Vec<u8>)> {
    let frame = |fill: u8, length: usize| vec![fill; length];
    let (short, long) = (plain(&frame(1, 60)), plain(&frame(2, 700)));
    let (bare, carried) = (vnet(&[0; 12], &frame(1, 60)), vnet(&[1; 20], &frame(2, 700)));
    vec![
        ("plain-frames", seed(0, WHOLE, &[&short, &long, &short])),
        ("plain-frames-torn", seed(0, TORN, &[&short, &short])),
        ("vnet-frames", seed(1, WHOLE, &[&bare, &carried, &bare])),
        ("vnet-frames-torn", seed(1, TORN, &[&bare, &carried])),
        ("vnet-without-header", seed(1, WHOLE, &[&vnet(&[], &frame(1, 60))])),
        ("vnet-of-nothing-but-header", seed(1, WHOLE, &[&vnet(&[3; 12], &[]), &bare])),
        ("vnet-longest-header", seed(1, WHOLE, &[&vnet(&[3; 32], &frame(1, 60))])),
        ("vnet-header-too-long", seed(1, WHOLE, &[&bare, &vnet(&[3; 33], &frame(1, 60))])),
        ("vnet-header-beyond-its-frame", seed(1, WHOLE, &[&[0, 0, 0, 20, 0, 0, 0, 21]])),
        ("length-zero", seed(0, WHOLE, &[&short, &[0; 4], &short])),
        ("length-longest", seed(0, WHOLE, &[&[0, 1, 0x10, 0, 1, 2, 3]])),
        ("length-too-long", seed(0, TORN, &[&short, &[0, 1, 0x10, 1, 1, 2, 3]])),
        ("length-of-four-gigabytes", seed(1, WHOLE, &[&[0xff; 8]])),
        ("cut-inside-a-frame", seed(0, TORN, &[&short, &long[..50]])),
        ("cut-inside-a-word", seed(1, WHOLE, &[&bare, &[0, 0, 0]])),
        ("one-frame-a-call", seed(0x0c, &[200], &[&short, &short, &short, &long])),
        ("many-frames-a-call", seed(0xf1, &[255, 1], &[&bare, &bare, &carried, &bare])),
    ]
}

pub(super) fn notify() -> Vec<(&'static str, Vec<u8>)> {
    let (hello, done) = (&b"COLO_USERSPACE_PROXY_INIT"[..], &b"COLO_CHECKPOINT"[..]);
    vec![
        ("hello-and-checkpoint", seed(0, WHOLE, &[&plain(hello), &plain(done), &plain(done)])),
        ("hello-and-checkpoint-torn", seed(0, TORN, &[&plain(hello), &plain(done)])),
        ("with-vnet-word", seed(1, WHOLE, &[&vnet(&[], hello), &vnet(&[], done)])),
        ("with-vnet-header", seed(1, TORN, &[&vnet(b"COLO_", b"CHECKPOINT")])),
        ("unknown", seed(0, WHOLE, &[&plain(b"COLO_CHECKPOINT\0"), &plain(b"x"), &plain(done)])),
        ("length-zero", seed(0, WHOLE, &[&plain(done), &[0; 4]])),
        ("length-longest", seed(0, TORN, &[&[0, 1, 0x10, 0, b'x']])),
        ("length-too-long", seed(1, WHOLE, &[&[0, 1, 0x10, 1]])),
        ("http", seed(0, WHOLE, &[b"GET / HTTP/1.1\r\n\r\n"])),
        ("header-beyond-its-message", seed(1, WHOLE, &[&[0, 0, 0, 4, 0, 0, 0, 5, 1, 2, 3, 4]])),
        ("cut", seed(0, WHOLE, &[&plain(done)[..9]])),
    ]
}
