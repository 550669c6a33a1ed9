#[test]
fn off() {
    use pegasus_contract::record::HeapHeader;
    println!(
        "OFF {}",
        core::mem::offset_of!(HeapHeader, schedule)
            + core::mem::offset_of!(pegasus_contract::schedule::ScheduleRecord, dbg)
    );
}
