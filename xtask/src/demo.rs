//! `cargo xtask demo`
use anyhow::Result;
#[derive(Debug, clap::Args)]
pub struct Arguments {}
pub fn run(_: &Arguments) -> Result<()> {
    Ok(())
}
