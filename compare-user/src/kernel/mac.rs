//! Ethernet addresses as people write them.

/// `02:00:00:00:00:01`.
#[must_use]
pub fn spelled(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Reads the address of one station.
///
/// # Errors
/// When it is no Ethernet address, or that of a group.
pub fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let wrong = || format!("`{text}` is no Ethernet address such as 52:54:00:12:34:56");
    let mut mac = [0; 6];
    let mut bytes = text.split([':', '-']);
    for byte in &mut mac {
        let digits = bytes.next().filter(|digits| digits.len() <= 2).ok_or_else(wrong)?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    if bytes.next().is_some() {
        return Err(wrong());
    }
    if mac[0] & 1 != 0 {
        return Err(format!("`{text}` is the address of a group, not of a guest"));
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        let mac = [0x52, 0x54, 0, 0x12, 0x34, 0xff];
        assert_eq!(parse_mac(&spelled(mac)), Ok(mac));
        assert_eq!(parse_mac("52-54-0-12-34-FF"), Ok(mac));
    }

    #[test]
    fn what_is_no_station_is_refused() {
        for text in
            ["", "52:54:00:12:34", "52:54:00:12:34:56:78", "52:54:00:12:34:zz", "+2:0:0:0:0:0x"]
        {
            assert!(parse_mac(text).expect_err("no address").contains("is no Ethernet"), "{text}");
        }
        assert!(parse_mac("01:00:5e:00:00:01").expect_err("a group").contains("group"));
    }
}
