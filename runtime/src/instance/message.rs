//! What the runtime, a group's instance and the containers' anchors say to each other.
//!
//! Each message is one packet of a `SOCK_SEQPACKET` socket: a JSON object of at most
//! [`MESSAGE_LEN_MAX`] bytes, with descriptors beside it. What may be longer (a program's arguments, a
//! seccomp filter) travels as a memory file ([`super::letter`]). Decoding accepts exactly these
//! messages: unknown kinds, fields and values out of range are errors.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

pub const MESSAGE_LEN_MAX: usize = 8 * 1024;
/// As many as Linux lets a message have (`SCM_MAX_FD`), so that none is cut off.
pub const DESCRIPTORS_MAX: usize = 253;
pub const SIGNAL_MAX: i32 = 64;

#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the message is longer than {MESSAGE_LEN_MAX} bytes")]
    TooLong,
    #[error("the message is not one of the protocol")]
    Malformed(#[source] serde_json::Error),
    #[error("the message has a value out of range")]
    OutOfRange,
}

/// What the runtime asks a group's instance for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "request",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum Request {
    /// Clone the first home task of a new container. Descriptors: the instance's end of the link to
    /// the anchor and, to join a pid namespace, that namespace.
    Spawn {
        version: String,
        container: ContainerName,
        keyring: Keyring,
        pid_namespace: PidNamespace,
    },
    /// The container that this connection has spawned is built. Descriptors: its join plan (a letter),
    /// a pidfd of its anchor.
    Enroll {
        /// Where every process of the container can be found, if they outlive its first one.
        cgroup_procs: Option<PathBuf>,
        /// Whether to find out which bridges its interfaces are on.
        bridge_fastpath: bool,
    },
    /// End a container, if it still exists, and answer when nothing of it is left.
    Remove { container: ContainerName },
}

/// Tells a container from all others on the machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerName {
    /// Directory of the container's state.
    pub directory: PathBuf,
    pub id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Keyring {
    New,
    Inherited,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PidNamespace {
    New,
    Joined,
}

/// The instance's answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "camelCase", deny_unknown_fields)]
pub enum Answer {
    Spawned(Spawned),
    Enrolled,
    Removed,
    /// Nothing has been done, for this reason.
    Refused {
        reason: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spawned {
    pub instance_pid: i32,
    pub home_pid: i32,
    pub slot: u32,
}

/// What an anchor tells the instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "anchor", rename_all = "camelCase", deny_unknown_fields)]
pub enum FromAnchor {
    /// Run the program. Descriptors: the program (a letter), then those that become 0, 1, 2, 3 …
    Start,
    /// The anchor has received a signal that is meant for the container.
    Signal { number: i32 },
}

/// What the instance tells an anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "instance",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum ToAnchor {
    Started,
    /// The program could not be loaded. The home task has exited.
    Failed {
        errno: i32,
    },
    /// The container's first process ends: a status as from `wait4(2)`.
    Ended {
        wait_status: i32,
    },
}

/// A message that can be checked after it has been parsed.
pub trait Message: Serialize + DeserializeOwned {
    fn is_in_range(&self) -> bool;
}

impl Message for Request {
    fn is_in_range(&self) -> bool {
        match self {
            Request::Spawn { container, .. } | Request::Remove { container } => {
                container.directory.is_absolute() && !container.id.contains('\0')
            }
            Request::Enroll { cgroup_procs, .. } => {
                cgroup_procs.as_ref().is_none_or(|path| path.is_absolute())
            }
        }
    }
}

impl Message for Answer {
    fn is_in_range(&self) -> bool {
        match self {
            Answer::Spawned(spawned) => spawned.home_pid > 0 && spawned.instance_pid > 0,
            Answer::Enrolled | Answer::Removed | Answer::Refused { .. } => true,
        }
    }
}

impl Message for FromAnchor {
    fn is_in_range(&self) -> bool {
        match self {
            FromAnchor::Start => true,
            FromAnchor::Signal { number } => (1..=SIGNAL_MAX).contains(number),
        }
    }
}

impl Message for ToAnchor {
    fn is_in_range(&self) -> bool {
        match self {
            ToAnchor::Started => true,
            ToAnchor::Failed { errno } => *errno > 0,
            ToAnchor::Ended { wait_status } => (0..=0xffff).contains(wait_status),
        }
    }
}

pub fn encode(message: &impl Message) -> Result<Vec<u8>, DecodeError> {
    let bytes = serde_json::to_vec(message).map_err(DecodeError::Malformed)?;
    if bytes.len() > MESSAGE_LEN_MAX {
        return Err(DecodeError::TooLong);
    }
    Ok(bytes)
}

pub fn decode<T: Message>(bytes: &[u8]) -> Result<T, DecodeError> {
    if bytes.len() > MESSAGE_LEN_MAX {
        return Err(DecodeError::TooLong);
    }
    let message: T = serde_json::from_slice(bytes).map_err(DecodeError::Malformed)?;
    if message.is_in_range() {
        Ok(message)
    } else {
        Err(DecodeError::OutOfRange)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pegasus_contract::anchor;
    use proptest::prelude::*;

    fn spawn(id: &str) -> Request {
        Request::Spawn {
            version: "1".to_owned(),
            container: ContainerName {
                directory: "/run/c/1".into(),
                id: id.to_owned(),
            },
            keyring: Keyring::New,
            pid_namespace: PidNamespace::Joined,
        }
    }

    #[test]
    fn messages_survive_a_round_trip() {
        let request = spawn("c1");
        assert_eq!(
            decode::<Request>(&encode(&request).unwrap()).unwrap(),
            request
        );
        let answer = Answer::Refused {
            reason: "full".to_owned(),
        };
        assert_eq!(decode::<Answer>(&encode(&answer).unwrap()).unwrap(), answer);
        let ended = ToAnchor::Ended { wait_status: 0x700 };
        assert_eq!(decode::<ToAnchor>(&encode(&ended).unwrap()).unwrap(), ended);
    }

    #[test]
    fn the_program_of_anchors_says_the_same() {
        let mut text = [0; anchor::MESSAGE_LEN_MAX];
        for number in 1..=SIGNAL_MAX {
            let len = anchor::write_signal(number.cast_unsigned(), &mut text);
            assert_eq!(
                text[..len],
                encode(&FromAnchor::Signal { number }).unwrap()[..]
            );
        }
        for wait_status in [0, 9, 0x700, 0xff00, 0xffff] {
            let text = encode(&ToAnchor::Ended { wait_status }).unwrap();
            assert!(text.len() <= anchor::MESSAGE_LEN_MAX);
            assert_eq!(anchor::ended(&text), Some(wait_status));
            assert_eq!(anchor::ended(&text[..text.len() - 1]), None);
        }
        for other in [ToAnchor::Started, ToAnchor::Failed { errno: 5 }] {
            assert_eq!(anchor::ended(&encode(&other).unwrap()), None);
        }
        let huge = br#"{"instance":"ended","waitStatus":99999999999}"#;
        assert_eq!(anchor::ended(huge), None);
    }

    #[test]
    fn half_and_foreign_messages_are_refused() {
        let whole = encode(&spawn("c1")).unwrap();
        for len in 0..whole.len() {
            assert!(decode::<Request>(&whole[..len]).is_err());
        }
        for text in [
            r#"{"request":"spawnAll"}"#,
            r#"{"request":"remove","container":{"directory":"/r","id":"c"},"x":1}"#,
            r#"{"request":"remove","container":{"directory":"r","id":"c"}}"#,
            r#"{"request":"remove","container":{"directory":"/r","id":"c\u0000"}}"#,
        ] {
            assert!(decode::<Request>(text.as_bytes()).is_err(), "{text}");
        }
        assert!(decode::<FromAnchor>(br#"{"anchor":"signal","number":65}"#).is_err());
        assert!(decode::<FromAnchor>(br#"{"anchor":"signal","number":0}"#).is_err());
        assert!(decode::<ToAnchor>(br#"{"instance":"ended","waitStatus":65536}"#).is_err());
    }

    #[test]
    fn the_bound_is_exact() {
        let room = MESSAGE_LEN_MAX - encode(&spawn("")).unwrap().len();
        assert!(encode(&spawn(&"x".repeat(room))).is_ok());
        assert!(matches!(
            encode(&spawn(&"x".repeat(room + 1))),
            Err(DecodeError::TooLong)
        ));
        let mut bytes = encode(&spawn(&"x".repeat(room))).unwrap();
        assert!(decode::<Request>(&bytes).is_ok());
        bytes.push(b' ');
        assert!(matches!(
            decode::<Request>(&bytes),
            Err(DecodeError::TooLong)
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Answer>(&bytes);
            let _ = decode::<FromAnchor>(&bytes);
            let _ = decode::<ToAnchor>(&bytes);
        }

        #[test]
        fn damaged_messages_are_decoded_or_refused(at in 0_usize..150, byte in any::<u8>(), id in ".{0,40}") {
            let mut bytes = encode(&spawn(&id.replace('\0', ""))).unwrap();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(request) = decode::<Request>(&bytes) {
                prop_assert!(request.is_in_range());
            }
        }
    }
}
