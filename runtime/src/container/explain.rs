//! Puts the container library's errors into words a user can act on.

use crate::error::chain;
use crate::executor::lookup::errno_text;
use crate::logging::first_error;
use libcontainer::error::LibcontainerError;
use nix::errno::Errno;

/// What the library wraps around the text that matters.
const WRAPPINGS: [&str; 3] = [
    "failed to create container: ",
    "exec process failed with error ",
    "intermediate process error ",
];

/// One sentence: the library's message without its wrappings, then the first thing that went wrong.
pub fn explain(error: &LibcontainerError) -> String {
    join(&chain(error), first_error::recall().as_deref())
}

fn join(message: &str, first: Option<&str>) -> String {
    let mut text = message.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    while let Some(rest) = WRAPPINGS
        .iter()
        .find_map(|wrapping| text.strip_prefix(wrapping))
    {
        text = rest;
    }
    let text = name_errors(text);
    match first.map(name_errors) {
        Some(first) if !first.contains(&text) && !text.contains(&first) => {
            format!("{text}: {first}")
        }
        Some(first) if text.len() < first.len() && !first.ends_with(&text) => first,
        _ => text,
    }
}

/// Replaces the names of error numbers (`ENOENT`) by their texts, which docker looks for.
fn name_errors(text: &str) -> String {
    let mut named = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c == 'E') {
        let word_end = rest[start..]
            .find(|c: char| !c.is_ascii_uppercase() && !c.is_ascii_digit())
            .map_or(rest.len(), |len| start + len);
        let is_word_start = !rest[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let word_end = word_end.max(start + 1);
        named.push_str(&rest[..start]);
        match errno_named(&rest[start..word_end]).filter(|_| is_word_start) {
            Some(errno) => named.push_str(&errno_text(errno)),
            None => named.push_str(&rest[start..word_end]),
        }
        rest = &rest[word_end..];
    }
    named.push_str(rest);
    named
}

fn errno_named(word: &str) -> Option<Errno> {
    const ERRNO_MAX: i32 = 133;
    (1..=ERRNO_MAX)
        .map(Errno::from_raw)
        .find(|errno| format!("{errno:?}") == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappings_are_removed() {
        let message = "failed to create container: exec process failed with error exec: \"x\": \
                       executable file not found in $PATH";
        assert_eq!(
            join(message, None),
            "exec: \"x\": executable file not found in $PATH"
        );
        assert_eq!(
            join(
                message,
                Some("failed to initialize container process: exec: \"x\"")
            ),
            "exec: \"x\": executable file not found in $PATH: \
             failed to initialize container process: exec: \"x\""
        );
    }

    #[test]
    fn the_first_error_is_added_once() {
        assert_eq!(
            join("prepare rootfs", Some("bind /a: ENOTDIR")),
            "prepare rootfs: bind /a: not a directory"
        );
        assert_eq!(
            join("no such process", Some("no such process")),
            "no such process"
        );
        assert_eq!(join("it failed\0\0", Some("x: it failed")), "it failed");
    }

    #[test]
    fn only_whole_names_of_errors_are_replaced() {
        assert_eq!(
            name_errors("Nix(EACCES) in SENOENT ENOENTX E2BIG"),
            "Nix(permission denied) in SENOENT ENOENTX argument list too long"
        );
        assert_eq!(name_errors("Error É E"), "Error É E");
    }
}
