//! Seeds of the capture reader: how the file arrives, then the file.

/// All at once.
const WHOLE: &[u8] = &[0];
/// In threes of bytes.
const TORN: &[u8] = &[1, 3];

/// Stands for a frame: the reader does not look into it.
const FRAME: &[u8] = b"a frame of 22 bytes...";

/// One word or half-word in the byte order of a file.
#[derive(Clone, Copy)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn half(self, value: u16) -> [u8; 2] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    fn word(self, value: u32) -> [u8; 4] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }
}

fn pcap(order: Order, magic: u32, link: u32, packets: &[Vec<u8>]) -> Vec<u8> {
    let mut file = order.word(magic).to_vec();
    file.extend(order.half(2));
    file.extend(order.half(4));
    for word in [0, 0, 262_144, link] {
        file.extend(order.word(word));
    }
    file.extend(packets.concat());
    file
}

fn packet(order: Order, captured: u32, original: u32) -> Vec<u8> {
    let words = [1_700_000_000, 999_999, captured, original].map(|word| order.word(word));
    [&words.concat()[..], FRAME].concat()
}

fn block(order: Order, kind: u32, body: &[u8]) -> Vec<u8> {
    let body = [body, &vec![0; body.len().wrapping_neg() % 4]].concat();
    let length = order.word(body.len() as u32 + 12);
    [&order.word(kind)[..], &length, &body, &length].concat()
}

fn section(order: Order) -> Vec<u8> {
    let magic = order.word(0x1a2b_3c4d);
    let version = [order.half(1), order.half(0)].concat();
    block(order, 0x0a0d_0d0a, &[&magic[..], &version, &[0xff; 8]].concat())
}

fn interface(order: Order, link: u16, options: &[u8]) -> Vec<u8> {
    let head = [&order.half(link)[..], &order.half(0), &order.word(100)].concat();
    block(order, 1, &[&head, options].concat())
}

fn enhanced(order: Order, interface: u32, captured: u32) -> Vec<u8> {
    let words = [interface, 0x0005_0000, 7, captured, 22].map(|word| order.word(word));
    block(order, 6, &[&words.concat()[..], FRAME].concat())
}

fn simple(order: Order, original: u32) -> Vec<u8> {
    block(order, 3, &[&order.word(original)[..], FRAME].concat())
}

pub(super) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let (little, big) = (Order::Little, Order::Big);
    let (micro, nano) = (0xa1b2_c3d4, 0xa1b2_3c4d);
    let two = |order| vec![packet(order, 22, 22), packet(order, 22, 60)];
    let nanoseconds = [9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0];
    let binary = [9, 0, 1, 0, 0x8a, 0, 0, 0, 14, 0, 8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let seeds: Vec<(&'static str, &[u8], Vec<u8>)> = vec![
        ("pcap-little-endian", WHOLE, pcap(little, micro, 1, &two(little))),
        ("pcap-big-endian-nanoseconds", TORN, pcap(big, nano, 1, &two(big))),
        ("pcap-check-sequence-flag", WHOLE, pcap(little, micro, 0x1400_0001, &two(little))),
        ("pcap-link-type-cooked", WHOLE, pcap(little, micro, 113, &two(little))),
        ("pcap-no-packets", WHOLE, pcap(big, micro, 1, &[])),
        ("pcap-cut-inside-a-packet", TORN, pcap(little, micro, 1, &[packet(little, 23, 23)])),
        (
            "pcap-length-of-four-gigabytes",
            WHOLE,
            pcap(little, micro, 1, &[packet(little, u32::MAX, 22)]),
        ),
        ("pcap-header-cut", WHOLE, pcap(little, micro, 1, &[])[..20].to_vec()),
        (
            "pcapng-little-endian",
            WHOLE,
            [section(little), interface(little, 1, &[]), enhanced(little, 0, 22)].concat(),
        ),
        (
            "pcapng-big-endian",
            TORN,
            [section(big), interface(big, 1, &[]), enhanced(big, 0, 22)].concat(),
        ),
        (
            "pcapng-nanoseconds",
            WHOLE,
            [section(little), interface(little, 1, &nanoseconds), enhanced(little, 0, 22)].concat(),
        ),
        (
            "pcapng-binary-resolution-and-offset",
            WHOLE,
            [section(little), interface(little, 1, &binary), enhanced(little, 0, 22)].concat(),
        ),
        (
            "pcapng-simple-packet",
            WHOLE,
            [section(little), interface(little, 1, &[]), simple(little, 22), simple(little, 2)]
                .concat(),
        ),
        (
            "pcapng-two-interfaces",
            WHOLE,
            [
                section(little),
                interface(little, 1, &[]),
                interface(little, 113, &[]),
                enhanced(little, 0, 22),
                enhanced(little, 1, 22),
            ]
            .concat(),
        ),
        (
            "pcapng-two-sections",
            TORN,
            [
                section(little),
                interface(little, 1, &[]),
                enhanced(little, 0, 22),
                section(big),
                interface(big, 1, &[]),
                enhanced(big, 0, 22),
            ]
            .concat(),
        ),
        (
            "pcapng-unknown-block",
            WHOLE,
            [
                section(little),
                block(little, 0x0bad, &[1, 2, 3]),
                interface(little, 1, &[]),
                enhanced(little, 0, 22),
            ]
            .concat(),
        ),
        (
            "pcapng-statistics",
            WHOLE,
            [section(little), interface(little, 1, &[]), block(little, 5, &[0; 12])].concat(),
        ),
        (
            "pcapng-names",
            WHOLE,
            [
                section(little),
                block(little, 4, &[1, 0, 6, 0, 10, 0, 0, 1, b'a', 0, 0, 0, 0, 0, 0, 0]),
            ]
            .concat(),
        ),
        (
            "pcapng-obsolete-packet",
            WHOLE,
            [section(little), interface(little, 1, &[]), block(little, 2, &[0; 24])].concat(),
        ),
        ("pcapng-no-interface", WHOLE, [section(little), enhanced(little, 0, 22)].concat()),
        (
            "pcapng-captured-length-lies",
            WHOLE,
            [section(little), interface(little, 1, &[]), enhanced(little, 0, u32::MAX)].concat(),
        ),
        (
            "pcapng-block-length-zero",
            WHOLE,
            [section(little), [1_u32, 0, 0, 0].map(u32::to_le_bytes).concat()].concat(),
        ),
        (
            "pcapng-block-length-of-four-gigabytes",
            TORN,
            [section(little), [1_u32, u32::MAX - 3, 0, 0].map(u32::to_le_bytes).concat()].concat(),
        ),
        ("gzip", WHOLE, vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0]),
        ("empty", WHOLE, Vec::new()),
    ];
    seeds.into_iter().map(|(name, arrival, file)| (name, [arrival, &file].concat())).collect()
}
