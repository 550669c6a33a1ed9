//! What the program of an anchor and a shared instance say to each other, and where.
//!
//! The instance's side of the conversation is in the runtime (`instance/message.rs`), whose messages these are two of.

/// The descriptor of the link to the instance: one end of a `SOCK_SEQPACKET` pair.
pub const LINK: usize = 3;
/// A signalfd(2) for all signals.
pub const SIGNALS: usize = 4;

/// Longer than any of the messages.
pub const MESSAGE_LEN_MAX: usize = 128;

const SIGNAL_HEAD: &[u8] = b"{\"anchor\":\"signal\",\"number\":";
const SIGNAL_TAIL: &[u8] = b"}";
const ENDED_HEAD: &[u8] = b"{\"instance\":\"ended\",\"waitStatus\":";
const ENDED_TAIL: &[u8] = b"}";

/// Writes the message about signal `number`, and gives its length.
pub fn write_signal(number: u32, text: &mut [u8; MESSAGE_LEN_MAX]) -> usize {
    let digits = [b'0' + (number / 10 % 10) as u8, b'0' + (number % 10) as u8];
    let digits = if number < 10 { &digits[1..] } else { &digits };
    let mut len = 0;
    for part in [SIGNAL_HEAD, digits, SIGNAL_TAIL] {
        text[len..len + part.len()].copy_from_slice(part);
        len += part.len();
    }
    len
}

/// The status in the message that the container's first process ends; `None` if it is another message.
pub fn ended(text: &[u8]) -> Option<i32> {
    let digits = text.strip_prefix(ENDED_HEAD)?.strip_suffix(ENDED_TAIL)?;
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0i32, |value, &digit| {
        let digit = digit.is_ascii_digit().then(|| i32::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}
