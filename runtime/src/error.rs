//! Turns an error and its causes into the one sentence that a user reads.

use std::error::Error;

/// `what: why: why`, outermost first. A cause whose text its parent already ends with is not
/// repeated (many libraries print their source themselves).
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let inner = error.to_string();
        if !text.ends_with(&inner) {
            text.push_str(": ");
            text.push_str(&inner);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn causes_are_appended_once() {
        let inner = Layer {
            text: "permission denied",
            source: None,
        };
        let middle = Layer {
            text: "cannot open x: permission denied",
            source: Some(inner.into()),
        };
        let outer = Layer {
            text: "cannot create c1",
            source: Some(middle.into()),
        };
        assert_eq!(
            chain(&outer),
            "cannot create c1: cannot open x: permission denied"
        );
    }
}
