//! Archives byte by byte: headers that say what no writer of ours would.

/// A header with data, of any type and with any size said.
pub(crate) fn raw(flag: u8, name: &str, size: usize, data: &[u8]) -> Vec<u8> {
    let mut header = match flag {
        b'L' | b'K' => tar::Header::new_gnu(),
        _ => tar::Header::new_ustar(),
    };
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(tar::EntryType::new(flag));
    header.set_mode(if flag == b'5' { 0o777 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(7);
    header.set_size(size as u64);
    header.as_mut_bytes()[156] = flag;
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

pub(crate) fn with_data(flag: u8, name: &str, data: &str) -> Vec<u8> {
    raw(flag, name, data.len(), data.as_bytes())
}

pub(crate) fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut data = String::new();
    for (key, value) in records {
        let rest = format!(" {key}={value}\n");
        let mut length = rest.len() + 1;
        while format!("{length}{rest}").len() != length {
            length += 1;
        }
        data += &format!("{length}{rest}");
    }
    with_data(b'x', "pax", &data)
}

pub(crate) fn ended(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut tar = parts.concat();
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// A header with some bytes changed and its checksum right again.
pub(crate) fn patched(mut bytes: Vec<u8>, at: usize, with: &[u8]) -> Vec<u8> {
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes[148..156].fill(b' ');
    let sum: u32 = bytes[..512].iter().map(|byte| u32::from(*byte)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes
}

/// As [`with_data`], in GNU's own format.
pub(crate) fn gnu(flag: u8, name: &str, data: &str) -> Vec<u8> {
    let bytes = with_data(flag, name, data);
    patched(bytes, 257, b"ustar  \0")
}

/// A sparse file of the old form: parts, size, data.
pub(crate) fn sparse_gnu(name: &str, parts: &[(u64, u64)], size: u64, data: &[u8]) -> Vec<u8> {
    let mut bytes = raw(b'S', name, data.len(), data);
    for (number, (offset, length)) in parts.iter().enumerate() {
        let field = format!("{offset:011o}\0{length:011o}\0");
        let at = 386 + 24 * number;
        bytes[at..at + 24].copy_from_slice(field.as_bytes());
    }
    let bytes = patched(bytes, 483, format!("{size:011o}\0").as_bytes());
    patched(bytes, 257, b"ustar  \0")
}
