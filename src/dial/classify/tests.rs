use super::*;

fn of_kind(kind: io::ErrorKind) -> RedisError {
    io::Error::from(kind).into()
}

/// What the driver makes of an error reply.
fn said(line: &str) -> RedisError {
    match redis::parse_redis_value(format!("-{line}\r\n").as_bytes()) {
        Ok(redis::Value::ServerError(error)) => error.into(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_vendors_refusal_is_heard() {
    for line in [
        "ERR max number of clients reached",
        "ERR max number of clients + cluster connections reached",
        "ERR max concurrent connections exceeded",
        "err Max Number Of Clients Reached (limit 10000)",
    ] {
        assert_eq!(of_error_line(line), Some(Outcome::MaxClients), "{line}");
    }
    assert_eq!(
        of_error_line("DENIED Redis is running in protected mode because"),
        Some(Outcome::Denied)
    );
    assert_eq!(of_error_line("no upstream host"), Some(Outcome::Unreachable));
    assert_eq!(of_error_line("ERR unknown subcommand 'SETINFO'"), None);
}

#[test]
fn the_servers_words_come_before_the_drivers() {
    let heard = b"-ERR max number of clients reached\r\n";
    for error in [
        of_kind(io::ErrorKind::BrokenPipe),
        RedisError::from((ErrorKind::AuthenticationFailed, "Password authentication failed")),
    ] {
        let (outcome, words) = classify(Stage::Handshake, heard, &error);
        assert_eq!(
            (outcome, words.as_str()),
            (Outcome::MaxClients, "ERR max number of clients reached")
        );
    }
}

#[test]
fn an_unrelated_error_line_before_the_refusal_does_not_hide_it() {
    let heard = b"-ERR Unknown subcommand 'SETINFO'\r\n-ERR max number of clients reached\r\n";
    let (outcome, _) = classify(Stage::Handshake, heard, &of_kind(io::ErrorKind::BrokenPipe));
    assert_eq!(outcome, Outcome::MaxClients);
}

#[test]
fn a_silent_close_is_suspected_only_before_the_first_byte() {
    let eof = of_kind(io::ErrorKind::UnexpectedEof);
    assert_eq!(classify(Stage::Handshake, b"", &eof).0, Outcome::SuspectedMaxClients);
    assert_eq!(classify(Stage::Handshake, b"+OK\r\n", &eof).0, Outcome::Other);
    let refused = of_kind(io::ErrorKind::ConnectionRefused);
    assert_eq!(classify(Stage::Connect, b"", &refused).0, Outcome::Refused);
}

#[cfg(target_os = "linux")]
#[test]
fn what_ran_out_on_this_side_is_not_the_servers() {
    for (number, words) in [
        (24, "this process has no file descriptor"),
        (23, "this machine has no file descriptor"),
        (99, "no local port"),
        (105, "memory"),
        (12, "memory"),
    ] {
        let error = RedisError::from(io::Error::from_raw_os_error(number));
        for stage in [Stage::Resolve, Stage::Connect, Stage::Handshake] {
            let (outcome, said) = classify(stage, b"", &error);
            assert_eq!(outcome, Outcome::LocalLimit, "{number} {stage:?}");
            assert!(said.contains(words), "{number}: {said}");
        }
        let class = of_call(&error);
        assert!(matches!(class, Class::Failed { outcome: Outcome::LocalLimit, .. }), "{class:?}");
    }
    for number in [1, 13] {
        let denied = RedisError::from(io::Error::from_raw_os_error(number));
        let (outcome, said) = classify(Stage::Connect, b"", &denied);
        assert_eq!(outcome, Outcome::Misconfigured, "{number}");
        assert!(said.starts_with("this process may not connect"), "{said}");
    }
}

#[test]
fn a_port_that_speaks_http_is_told_so() {
    let heard = b"HTTP/1.1 400 Bad Request\r\n\r\n";
    let error = RedisError::from((ErrorKind::Parse, "not a reply"));
    assert_eq!(classify(Stage::Handshake, heard, &error).0, Outcome::Misconfigured);
}

#[test]
fn a_line_without_an_end_is_read_too() {
    let eof = of_kind(io::ErrorKind::UnexpectedEof);
    let (outcome, words) = classify(Stage::Handshake, b"-SHUTDOWN", &eof);
    assert_eq!((outcome, words.as_str()), (Outcome::Other, "SHUTDOWN"));
}

#[test]
fn a_line_means_what_its_code_or_its_words_say() {
    for (line, outcome) in [
        ("LOADING Redis is loading the dataset in memory", Outcome::Loading),
        ("NOAUTH Authentication required.", Outcome::Auth),
        ("WRONGPASS invalid username-password pair or user is disabled.", Outcome::Auth),
        ("ERR invalid password", Outcome::Auth),
        ("ERR Client sent AUTH, but no password is set", Outcome::Auth),
        ("NOPROTO unsupported protocol version", Outcome::Misconfigured),
        ("ERR DB index is out of range", Outcome::Misconfigured),
        ("ERR SELECT is not allowed in cluster mode", Outcome::Misconfigured),
        // It echoes what it was sent.
        ("ERR unknown command 'HELLO', with args: 3 AUTH 'sent auth'", Outcome::Misconfigured),
        ("upstream failure", Outcome::Unreachable),
    ] {
        assert_eq!(of_error_line(line), Some(outcome), "{line}");
    }
    for line in ["ERR max number of clients is 10000", "ERR quota reached", "WRONGTYPE loading"] {
        assert_eq!(of_error_line(line), None, "{line}");
    }
}

#[test]
fn among_the_first_lines_the_one_that_says_why_is_found() {
    let full =
        b"+OK\r\n-ERR unknown subcommand\r\n-ERR max number of clients reached\r\n-NOAUTH\r\n";
    assert_eq!(refusal(full).as_deref(), Some("ERR max number of clients reached"));
    let wrong = b"-ERR unknown subcommand\r\n-WRONGPASS no\r\n-NOAUTH\r\n";
    assert_eq!((refusal(wrong), bad_news(wrong).as_deref()), (None, Some("WRONGPASS no")));
    assert_eq!(bad_news(b"+OK\r\n-ERR unknown subcommand\r\n+PONG\r\n"), None);
}

#[test]
fn an_error_reply_that_the_driver_took_is_classified_by_its_words() {
    let wrong = classify(Stage::Handshake, b"", &said("WRONGPASS no such user"));
    assert_eq!(wrong, (Outcome::Auth, "WRONGPASS no such user".to_owned()));
    let odd = classify(Stage::Handshake, b"", &said("ODD"));
    assert_eq!(odd, (Outcome::Other, "ODD".to_owned()));
}

#[test]
fn a_timeout_of_ours_says_what_was_waited_for_and_one_of_the_systems_is_told_in_its_words() {
    let ours = of_kind(io::ErrorKind::TimedOut);
    for (stage, outcome, words) in [
        (Stage::Resolve, Outcome::Dns, "the name has not been resolved"),
        (Stage::Connect, Outcome::Timeout, "nothing has answered the connect"),
        (Stage::Tls, Outcome::Timeout, "the TLS handshake has had no answer"),
        (Stage::Handshake, Outcome::Timeout, "the first commands have had no answer"),
    ] {
        let (found, message) = classify(stage, b"", &ours);
        assert_eq!(found, outcome, "{stage:?}");
        assert!(message.contains(words) && message.ends_with("within the connect timeout"));
    }
    let limit = of_kind(io::ErrorKind::AddrNotAvailable);
    assert_eq!(classify(Stage::Connect, b"", &limit).0, Outcome::LocalLimit);
}

#[cfg(target_os = "linux")]
#[test]
fn the_systems_own_timeout_is_told_in_its_words() {
    let theirs = RedisError::from(io::Error::from_raw_os_error(110));
    let (outcome, message) = classify(Stage::Connect, b"", &theirs);
    assert_eq!((outcome, message), (Outcome::Timeout, theirs.to_string()));
}

#[test]
fn a_connect_fails_as_the_system_says() {
    use io::ErrorKind as Io;
    for (kind, outcome) in [
        (Io::ConnectionRefused, Outcome::Refused),
        (Io::NotFound, Outcome::Refused),
        (Io::HostUnreachable, Outcome::Unreachable),
        (Io::NetworkUnreachable, Outcome::Unreachable),
        (Io::WouldBlock, Outcome::Timeout),
        (Io::ConnectionReset, Outcome::SuspectedMaxClients),
        (Io::ConnectionAborted, Outcome::SuspectedMaxClients),
        (Io::InvalidInput, Outcome::Other),
    ] {
        assert_eq!(classify(Stage::Connect, b"", &of_kind(kind)).0, outcome, "{kind}");
        let is_no_way = outcome == Outcome::Unreachable;
        assert_eq!(super::is_no_way(&of_kind(kind)), is_no_way, "{kind}");
    }
}

#[test]
fn a_handshake_fails_for_what_was_said_or_for_what_the_driver_found() {
    let parse = RedisError::from((ErrorKind::Parse, "not a reply"));
    let wrong = RedisError::from((ErrorKind::AuthenticationFailed, "no"));
    let resp2 = RedisError::from((ErrorKind::RESP3NotSupported, "no"));
    let config = RedisError::from((ErrorKind::InvalidClientConfig, "no"));
    let timeout = of_kind(io::ErrorKind::TimedOut);
    let certificate = of_kind(io::ErrorKind::InvalidData);
    let setinfo = b"-ERR Unknown subcommand or wrong number of arguments for 'SETINFO'\r\n";
    for (heard, error, outcome) in [
        (&b"-ERR a proxy's own words\r\n"[..], &wrong, Outcome::Other),
        (b"-ERR a proxy's own words\r\n", &timeout, Outcome::Timeout),
        (setinfo, &wrong, Outcome::Auth),
        (setinfo, &timeout, Outcome::Timeout),
        (b"", &wrong, Outcome::Auth),
        (b"", &resp2, Outcome::Misconfigured),
        (b"", &config, Outcome::Misconfigured),
        (b"", &certificate, Outcome::Misconfigured),
        (b"+OK\r\n", &certificate, Outcome::Other),
        (b"+OK\r\n", &parse, Outcome::Other),
    ] {
        let heard_text = String::from_utf8_lossy(heard);
        assert_eq!(classify(Stage::Handshake, heard, error).0, outcome, "{heard_text} {error}");
    }
    let smtp = classify(Stage::Handshake, b"220 mail.example ESMTP\r\n250 hello\r\n", &parse).1;
    assert_eq!(smtp, "this is not Redis's protocol: \"220 mail.example ESMTP\"");
    assert_eq!(classify(Stage::Handshake, b"", &parse).1, parse.to_string());
    let eof = of_kind(io::ErrorKind::UnexpectedEof);
    assert!(classify(Stage::Handshake, b"+OK\r\n", &eof).1.starts_with(HUNG_UP));
    assert!(classify(Stage::Tls, b"", &eof).1.contains("the server may be full"));
}

#[test]
fn the_error_of_a_socket_whosever_it_is_says_of_the_server_what_its_kind_says() {
    use io::ErrorKind as Io;
    for (kind, outcome) in [
        (Io::TimedOut, Some(Outcome::Timeout)),
        (Io::ConnectionRefused, Some(Outcome::Refused)),
        (Io::HostUnreachable, Some(Outcome::Unreachable)),
        (Io::BrokenPipe, Some(Outcome::SuspectedMaxClients)),
        (Io::OutOfMemory, Some(Outcome::LocalLimit)),
        (Io::InvalidData, None),
    ] {
        assert_eq!(of_io_error(&kind.into()), outcome, "{kind}");
    }
}

#[test]
fn the_error_of_a_call_says_of_the_server_what_can_be_known_from_it() {
    use io::ErrorKind as Io;
    let failed = |error: &RedisError| match of_call(error) {
        Class::Failed { outcome, .. } => Some(outcome),
        _ => None,
    };
    for (kind, outcome) in [
        (Io::TimedOut, Outcome::Timeout),
        (Io::WouldBlock, Outcome::Timeout),
        (Io::ConnectionRefused, Outcome::Refused),
        (Io::NotFound, Outcome::Refused),
        (Io::HostUnreachable, Outcome::Unreachable),
        (Io::NetworkUnreachable, Outcome::Unreachable),
        (Io::AddrNotAvailable, Outcome::LocalLimit),
        (Io::InvalidData, Outcome::Other),
    ] {
        assert_eq!(failed(&of_kind(kind)), Some(outcome), "{kind}");
    }
    let ends = [Io::UnexpectedEof, Io::ConnectionReset, Io::ConnectionAborted];
    for kind in ends.into_iter().chain([Io::BrokenPipe, Io::NotConnected]) {
        assert_eq!(failed(&of_kind(kind)), Some(Outcome::SuspectedMaxClients), "{kind}");
    }
    let login = RedisError::from((ErrorKind::AuthenticationFailed, "no"));
    assert_eq!(failed(&login), Some(Outcome::Auth));
    let full = said("ERR max number of clients reached");
    let message = "ERR max number of clients reached".to_owned();
    assert_eq!(of_call(&full), Class::Failed { outcome: Outcome::MaxClients, message });
    for error in [said("WRONGTYPE no"), said("ERR DB index is out of range")]
        .into_iter()
        .chain([RedisError::from((ErrorKind::UnexpectedReturnType, "not a number"))])
    {
        assert_eq!(of_call(&error), Class::Worked, "{error}");
    }
    let ours = crate::vocabulary::Rejection::connect_failed(
        crate::vocabulary::DialFailure::new("redis:6379", Outcome::Refused, "nobody listens"),
        std::time::Duration::ZERO,
    );
    for error in [RedisError::from((ErrorKind::Client, "empty command")), ours.into()] {
        assert_eq!(of_call(&error), Class::Unknown, "{error}");
    }
}
