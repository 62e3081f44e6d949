//! What the process asks of the system for itself: a heap that gives memory back, and as many open files as it may have.
//!
//! Both are best effort: a system that refuses is served as it is.

/// Sets both; call it before any thread runs.
pub fn set() {
    bound_heap();
    raise_open_files();
}

/// glibc keeps freed memory once for each thread that ever held some, up to 64 MiB each; large uploads then leave several times
/// what they used. Buffers of 1 MiB and more go back at once, smaller ones when 4 MiB of them lie idle.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "the allocator's own settings have no safe call")]
fn bound_heap() {
    for (what, value) in [(libc::M_ARENA_MAX, 2), (libc::M_MMAP_THRESHOLD, 1 << 20), (libc::M_TRIM_THRESHOLD, 4 << 20)]
    {
        // SAFETY: it changes numbers inside the allocator, and no other thread runs yet.
        unsafe { libc::mallopt(what, value) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn bound_heap() {}

/// The soft limit is often 1,024, fewer than connections and a run's files may need together.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
