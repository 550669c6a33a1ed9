//! Whether what stands in Pegasus's column was measured on fused containers.
//!
//! A container that cannot be fused runs as under runc, by design without a word: its figures would
//! pass for Pegasus's.

use anyhow::{Result, ensure};
use pegasus_tests::harness::context::Context;
use serde_json::Value;

/// Fails if a container of the sample that still runs is not in the group's instance.
pub fn ensure_fused(context: &Context) -> Result<()> {
    let filter = format!("label={}", context.label());
    let list = ["ps", "--quiet", "--no-trunc", "--filter", &filter];
    let root = context.site().runtime_root().display().to_string();
    for id in context.docker(list)?.expect(0)?.text().lines() {
        let args = ["--root", &root, "inspect", "--format", "json", id];
        let said = context.host(context.pegasus()?, &args)?.expect(0)?.stdout;
        let answer: Value = serde_json::from_str(&said)?;
        ensure!(is_fused(&answer), "not fused: {}", answer["reason"]);
    }
    Ok(())
}

fn is_fused(answer: &Value) -> bool {
    answer["instance"] == "shared" && answer["placement"] == "resident"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn only_residents_of_a_shared_instance_are_fused() {
        let answer = |instance, placement| json!({"instance": instance, "placement": placement});
        assert!(super::is_fused(&answer("shared", "resident")));
        assert!(!super::is_fused(&answer("shared", "native")));
        assert!(!super::is_fused(&answer("own", "resident")));
        assert!(!super::is_fused(&json!({})));
    }
}
