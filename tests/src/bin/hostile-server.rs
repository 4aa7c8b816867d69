//! A program that a supervisor takes for the next version of its server, and that is its enemy.
//!
//! It says that it is ready, takes the mount over, and then says what it should not: mounts that are not its own,
//! devices that are paths, descriptors of other things, floods. Then it dies, as each of its successors does.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde_json::{Value, json};

/// Longest message of the supervisor protocol.
const MAX_LEN: usize = 64 * 1024;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|word| word == "--server-fd");
    let number = at.and_then(|at| arguments.get(at + 1)).and_then(|text| text.parse().ok());
    let Some(number) = number else { return };
    // SAFETY: the supervisor has opened it for us, and nobody else in this process knows it.
    let line = unsafe { OwnedFd::from_raw_fd(number) };
    say(&line, &json!({"Ready": {"version": "\u{1b}]0;owned\u{7}"}}), &[]);
    let mut mounted = None;
    let mut connection = None;
    while let Some((word, mut descriptors)) = hear(&line) {
        if word.get("Mounted").is_some() {
            (mounted, connection) = (Some(word), descriptors.pop());
        } else if word == "Complete" {
            break;
        }
    }
    let (Some(mounted), Some(connection)) = (mounted, connection) else { return };
    attack(&line, &mounted, &connection);
    // Dead without having been asked to.
    std::process::abort();
}

#[allow(
    clippy::disallowed_methods,
    reason = "a program of a test, which is told by its environment"
)]
fn attack(line: &OwnedFd, mounted: &Value, connection: &OwnedFd) {
    let victim = std::env::var("VICTIM").unwrap_or_default();
    let path = std::env::var("VICTIM_PATH").unwrap_or_default();
    let own = &mounted["Mounted"];
    let greeting = &own["greeting"];
    let hostile = |mountpoint: &Value, device: Value| {
        let said = json!({"greeting": greeting, "mountpoint": mountpoint, "device": device});
        json!({"Mounted": said})
    };
    let elsewhere = Value::from(victim);
    let (mountpoint, device) = (&own["mountpoint"], &own["device"]);
    for (mountpoint, device) in [
        (mountpoint, device.clone()),
        (&elsewhere, device.clone()),
        (&elsewhere, Value::Null),
        (&elsewhere, format!("0:{path}").into()),
        (mountpoint, format!("0:{path}").into()),
    ] {
        say(line, &hostile(mountpoint, device), &[connection.as_fd()]);
    }
    // A connection to the kernel that is none of a mount.
    let fresh = File::options().read(true).write(true).open("/dev/fuse").expect("there is one");
    say(line, &hostile(&elsewhere, Value::Null), &[fresh.as_fd()]);
    say(line, &json!({"Journals": {"names": ["a\n\u{1b}[31m"]}}), &[connection.as_fd()]);
    for word in ["Died", "Complete", "Present", "Released"] {
        say(line, &json!(word), &[]);
    }
    say(line, &hostile(&elsewhere, Value::from(format!("0:{path}"))), &[connection.as_fd()]);
    // It counts as one that served, so that the program before does not come back.
    say(line, &json!({"Serving": {"version": "\u{1b}]0;owned\u{7}"}}), &[]);
    // From here on it is not heard any more.
    let null = File::open("/dev/null").expect("there is one");
    say(line, &hostile(&elsewhere, Value::from(format!("0:{path}"))), &[null.as_fd()]);
}

fn say(line: &OwnedFd, word: &Value, descriptors: &[BorrowedFd<'_>]) {
    let text = word.to_string();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    // It may not listen any more.
    let pieces = [IoSlice::new(text.as_bytes())];
    let _ = sendmsg(line, &pieces, &mut control, SendFlags::NOSIGNAL);
}

fn hear(line: &OwnedFd) -> Option<(Value, Vec<OwnedFd>)> {
    let mut text = vec![0; MAX_LEN];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let pieces = &mut [IoSliceMut::new(&mut text)];
    let received = recvmsg(line, pieces, &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            descriptors.extend(sent);
        }
    }
    let word = serde_json::from_slice(text.get(..received.bytes)?).ok()?;
    Some((word, descriptors))
}
