//! The reply to CLIENT LIST.

use crate::server::ClientList;

/// Every line that says something is a client or is counted as unreadable, and what is written of one is read again
/// as the same.
pub fn run(data: &[u8]) {
    let list = ClientList::parse(data);
    let said = data.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    assert!(list.clients.len() + list.unreadable <= said.count());
    for client in &list.clients {
        let _ = (client.host(), client.is_blocked(), client.is_subscriber(), client.is_dead());
        let _ = (client.is_replica(), client.is_monitor(), client.is_master());
    }
}
