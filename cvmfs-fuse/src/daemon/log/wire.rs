//! Messages as journald and syslog take them: datagrams to a socket of this machine. They are tried
//! once, and wait for nobody.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use tracing::Level;

use super::record::{Record, Value};

/// Where journald listens.
pub(super) const JOURNAL: &str = "/run/systemd/journal/socket";
/// Where syslog does.
pub(super) const SYSLOG: &str = "/dev/log";
/// By this name sites find the messages of upstream's client.
const SYSLOG_NAME: &str = "cvmfs2";
/// Facility `user` of syslog.
const USER: u8 = 1;
/// The first of eight for the site.
const LOCAL_0: u8 = 16;

/// Sends one datagram.
pub(super) fn send(socket: &Path, datagram: &[u8]) -> io::Result<()> {
    let own = UnixDatagram::unbound()?;
    own.set_nonblocking(true)?;
    own.send_to(datagram, socket).map(drop)
}

/// Returns the number of a facility: 0 to 7 are those of the site (spec/config.md section 3.5).
pub(super) fn facility(local: Option<u8>) -> u8 {
    local.map_or(USER, |number| LOCAL_0 + number.min(7))
}

fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// Returns a message as fields of journald.
pub(super) fn journal(record: &Record, process: Option<&str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut add = |name: &str, value: &str| {
        bytes.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            bytes.push(b'\n');
            bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            bytes.push(b'=');
        }
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(b'\n');
    };
    add("MESSAGE", &record.text());
    add("PRIORITY", &severity(record.level).to_string());
    add("SYSLOG_IDENTIFIER", "cvmfs-fuse");
    add("TARGET", record.target);
    if let Some(repository) = record.repository().or(process) {
        add("CVMFS_REPOSITORY", repository);
    }
    if record.repeated > 0 {
        add("CVMFS_REPEATED", &record.repeated.to_string());
    }
    for (name, value) in &record.fields {
        // Letters, digits and underscores only, and none of journald's own.
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let name = format!("CVMFS_{}", name.to_ascii_uppercase());
        match value {
            _ if !plain => {}
            Value::Text(text) | Value::Shown(text) => add(&name, text),
            Value::Plain(value) => add(&name, &value.to_string()),
        }
    }
    bytes
}

/// Returns a message as syslog's daemons expect it from the same machine (RFC 3164 without host).
pub(super) fn syslog(record: &Record, facility: u8, prefix: &str) -> Vec<u8> {
    let priority = facility * 8 + severity(record.level);
    let time = jiff::Timestamp::try_from(record.time).unwrap_or_default();
    let time = time.to_zoned(jiff::tz::TimeZone::system()).strftime("%b %e %H:%M:%S").to_string();
    let pid = std::process::id();
    format!("<{priority}>{time} {SYSLOG_NAME}[{pid}]: {}", prefixed(record, prefix)).into_bytes()
}

/// Returns what upstream writes: the repository, and the message.
pub(super) fn prefixed(record: &Record, prefix: &str) -> String {
    format!("({prefix}) {}", record.text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journald_gets_fields_of_any_content() {
        let mut record = Record::new(Level::WARN, "t");
        record.message = "it fails".to_owned();
        record.fields =
            vec![("path", Value::Text("a\nb".to_owned())), ("odd.name", Value::Plain(1.into()))];
        let mut expected = b"MESSAGE=it fails path=\"a\\nb\" odd.name=1\nPRIORITY=4\n\
            SYSLOG_IDENTIFIER=cvmfs-fuse\nTARGET=t\nCVMFS_REPOSITORY=a.b.c\nCVMFS_PATH\n"
            .to_vec();
        expected.extend_from_slice(b"\x03\0\0\0\0\0\0\0a\nb\n");
        assert_eq!(
            String::from_utf8_lossy(&journal(&record, Some("a.b.c"))),
            String::from_utf8_lossy(&expected)
        );
    }

    #[test]
    fn syslog_gets_facility_and_prefix() {
        let mut record = Record::new(Level::ERROR, "t");
        record.message = "it fails".to_owned();
        let line = String::from_utf8(syslog(&record, facility(Some(3)), "atlas")).unwrap();
        assert!(line.starts_with("<155>"), "{line}");
        let end = format!(" cvmfs2[{}]: (atlas) it fails", std::process::id());
        assert!(line.ends_with(&end), "{line}");
        assert_eq!(facility(None), 1);
    }
}
