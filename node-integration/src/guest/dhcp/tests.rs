use proptest::prelude::*;

use super::*;

const MAC: Mac = Mac::new([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
const OTHER: Mac = Mac::new([0x52, 0x54, 0, 0x65, 0x43, 0x21]);
const TRANSACTION: [u8; 3] = [0xab, 0xcd, 0xef];
/// DUID-LL of `MAC`.
const CLIENT: [u8; 10] = [0, 3, 0, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56];
const ID: [u8; 4] = [0, 0x12, 0x34, 0x56];

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn lease() -> Ipv6Addr {
    v6("430:9364:d8d8:84a9:ff0f:b60f:2b7e:c39c")
}

fn served() -> Served {
    Served {
        subnet: Subnet::containing(lease()),
        leases: BTreeMap::from([(MAC, lease())]),
        name_servers: vec![v6("430:9364:d8d8:84a9::1")],
    }
}

fn server() -> Server {
    Server::new(served())
}

fn option(code: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = code.to_be_bytes().to_vec();
    bytes.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(value);
    bytes
}

fn message(kind: u8, options: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&TRANSACTION);
    bytes.extend(options.concat());
    bytes
}

fn client() -> Vec<u8> {
    option(1, &CLIENT)
}

fn to(server: &Server) -> Vec<u8> {
    option(2, &server.duid)
}

/// An IA_NA that names addresses.
fn association(addresses: &[Ipv6Addr]) -> Vec<u8> {
    let mut value = ID.to_vec();
    value.extend_from_slice(&[0; 8]);
    for address in addresses {
        let mut inner = address.octets().to_vec();
        inner.extend_from_slice(&[0; 8]);
        value.extend(option(5, &inner));
    }
    option(3, &value)
}

fn split(bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut options = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        options.push((
            u16::from_be_bytes([rest[0], rest[1]]),
            rest[4..4 + length].to_vec(),
        ));
        rest = &rest[4 + length..];
    }
    options
}

/// Type and options of an answer that names this client, this server and the question's transaction.
fn opened(server: &Server, answer: &[u8]) -> (u8, Vec<(u16, Vec<u8>)>) {
    assert_eq!(answer[1..4], TRANSACTION);
    let mut options = split(&answer[4..]);
    assert_eq!(options.remove(0), (1, CLIENT.to_vec()));
    assert_eq!(options.remove(0), (2, server.duid.to_vec()));
    (answer[0], options)
}

fn value(options: &[(u16, Vec<u8>)], code: u16) -> Vec<u8> {
    let mut found = options.iter().filter(|(found, _)| *found == code);
    let value = found.next().expect("the option is there").1.clone();
    assert!(found.next().is_none(), "once");
    value
}

/// Addresses of the association with their preferred and valid lifetimes.
fn assigned(options: &[(u16, Vec<u8>)]) -> Vec<(Ipv6Addr, u32, u32)> {
    let value = value(options, 3);
    assert_eq!(value[..4], ID);
    assert_eq!(value[4..8], RENEW.to_be_bytes());
    assert_eq!(value[8..12], REBIND.to_be_bytes());
    split(&value[12..])
        .into_iter()
        .map(|(code, inner)| {
            assert_eq!((code, inner.len()), (5, 24));
            let word = |from: usize| u32::from_be_bytes(inner[from..from + 4].try_into().unwrap());
            let address: [u8; 16] = inner[..16].try_into().unwrap();
            (Ipv6Addr::from(address), word(16), word(20))
        })
        .collect()
}

fn ask(server: &mut Server, message: &[u8]) -> Result<Vec<u8>, Refusal> {
    server.handle(Instant::now(), addressing::link_local(MAC), message)
}

#[test]
fn four_messages_bring_the_seed_address() {
    let mut server = server();
    let solicit = message(1, &[client(), association(&[])]);
    let answer = ask(&mut server, &solicit).unwrap();
    let (kind, options) = opened(&server, &answer);
    assert_eq!(kind, 2, "Advertise");
    assert_eq!(assigned(&options), [(lease(), PREFERRED, VALID)]);
    assert_eq!(value(&options, 7), [255]);
    assert_eq!(value(&options, 23), v6("430:9364:d8d8:84a9::1").octets());

    let request = message(3, &[client(), to(&server), association(&[lease()])]);
    let answer = ask(&mut server, &request).unwrap();
    let (kind, options) = opened(&server, &answer);
    assert_eq!(kind, 7, "Reply");
    assert_eq!(assigned(&options), [(lease(), PREFERRED, VALID)]);
    assert_eq!(server.counters().answered, 2);
}

#[test]
fn two_messages_are_enough_for_who_wants_it() {
    let mut server = server();
    let solicit = message(1, &[client(), option(14, &[]), association(&[])]);
    let answer = ask(&mut server, &solicit).unwrap();
    let (kind, options) = opened(&server, &answer);
    assert_eq!(kind, 7, "Reply");
    assert_eq!(value(&options, 14), [0_u8; 0]);
    assert_eq!(assigned(&options), [(lease(), PREFERRED, VALID)]);
}

#[test]
fn renewing_corrects_what_the_client_believes() {
    let mut server = server();
    let stale = v6("430:9364:d8d8:84a9::bad");
    let renew = message(5, &[client(), to(&server), association(&[stale, lease()])]);
    let rebind = message(6, &[client(), association(&[stale, lease()])]);
    for question in [renew, rebind] {
        let answer = ask(&mut server, &question).unwrap();
        let (kind, options) = opened(&server, &answer);
        assert_eq!(kind, 7);
        assert_eq!(
            assigned(&options),
            [(lease(), PREFERRED, VALID), (stale, 0, 0)]
        );
    }
}

#[test]
fn confirming_tells_whether_the_client_has_moved() {
    let mut server = server();
    for (address, status) in [
        (lease(), SUCCESS),
        (v6("430:9364:d8d8:84aa::1"), NOT_ON_LINK),
    ] {
        let confirm = message(4, &[client(), association(&[address])]);
        let answer = ask(&mut server, &confirm).unwrap();
        let (kind, options) = opened(&server, &answer);
        assert_eq!(kind, 7);
        assert_eq!(value(&options, 13), status.to_be_bytes());
    }
    let nothing = message(4, &[client(), association(&[])]);
    assert_eq!(ask(&mut server, &nothing), Err(Refusal::Empty));
}

#[test]
fn giving_back_and_declining_are_acknowledged() {
    let mut server = server();
    for kind in [8, 9] {
        let question = message(kind, &[client(), to(&server), association(&[lease()])]);
        let answer = ask(&mut server, &question).unwrap();
        let (kind, options) = opened(&server, &answer);
        assert_eq!(kind, 7);
        assert_eq!(value(&options, 13), SUCCESS.to_be_bytes());
    }
}

#[test]
fn name_servers_are_told_without_an_address() {
    let mut server = server();
    let answer = ask(&mut server, &message(11, &[client()])).unwrap();
    let (kind, options) = opened(&server, &answer);
    assert_eq!(kind, 7);
    assert_eq!(value(&options, 23), v6("430:9364:d8d8:84a9::1").octets());
    // RFC 8415 §18.3.6: the client need not name itself.
    let answer = ask(&mut server, &message(11, &[])).unwrap();
    assert_eq!(split(&answer[4..])[0], (2, server.duid.to_vec()));
    let with_address = message(11, &[client(), association(&[])]);
    assert_eq!(ask(&mut server, &with_address), Err(Refusal::Parties));
}

#[test]
fn prefixes_temporary_and_second_addresses_there_are_none() {
    let mut server = server();
    let mut second = ID.to_vec();
    second[0] = 9;
    second.extend_from_slice(&[0; 8]);
    let solicit = message(
        1,
        &[
            client(),
            association(&[]),
            option(3, &second),
            option(4, &ID),
            option(25, &second),
        ],
    );
    let answer = ask(&mut server, &solicit).unwrap();
    let (_, options) = opened(&server, &answer);
    let of = |code| -> Vec<_> { options.iter().filter(|(found, _)| *found == code).collect() };
    assert_eq!(of(3).len(), 2);
    assert_eq!(
        split(&of(3)[1].1[12..]),
        [(13, NO_ADDRESSES.to_be_bytes().to_vec())]
    );
    assert_eq!(
        split(&of(4)[0].1[4..]),
        [(13, NO_ADDRESSES.to_be_bytes().to_vec())]
    );
    assert_eq!(
        split(&of(25)[0].1[12..]),
        [(13, NO_PREFIXES.to_be_bytes().to_vec())]
    );
}

#[test]
fn strangers_get_no_answer() {
    let mut server = server();
    let solicit = message(1, &[client(), association(&[])]);
    let now = Instant::now();
    // Somebody else's port; the DUID claims to be the guest.
    let other = server.handle(now, addressing::link_local(OTHER), &solicit);
    assert_eq!(other, Err(Refusal::Stranger));
    // An address that says nothing: the DUID counts.
    assert!(server.handle(now, v6("fe80::1234"), &solicit).is_ok());
    let opaque = message(1, &[option(1, &[0, 2, 0, 0, 0, 9, 1]), association(&[])]);
    assert_eq!(
        server.handle(now, v6("fe80::1234"), &opaque),
        Err(Refusal::Stranger)
    );
    assert_eq!(server.counters().ignored, 2);
}

#[test]
fn messages_must_name_who_they_are_for() {
    let mut server = server();
    let wrong = option(2, &[0, 4, 1, 2, 3]);
    let addresses = association(&[lease()]);
    for improper in [
        message(1, std::slice::from_ref(&addresses)),
        message(1, &[client(), to(&server), addresses.clone()]),
        message(3, &[client(), addresses.clone()]),
        message(3, &[client(), wrong.clone(), addresses.clone()]),
        message(5, &[to(&server), addresses.clone()]),
        message(6, &[client(), to(&server), addresses]),
        message(11, &[client(), wrong]),
    ] {
        assert_eq!(ask(&mut server, &improper), Err(Refusal::Parties));
    }
    for kind in [0, 2, 7, 10, 12, 13, 255] {
        assert_eq!(
            ask(&mut server, &message(kind, &[client()])),
            Err(Refusal::Kind(kind))
        );
    }
    assert_eq!(server.counters().refused, 14);
}

#[test]
fn malformed_messages_are_refused() {
    let mut server = server();
    for bad in [
        vec![],
        vec![1, 2, 3],
        message(1, &[vec![0, 1, 0]]),
        message(1, &[vec![0, 1, 0, 9, 1]]),
        message(1, &[client(), client()]),
        message(1, &[option(1, &[0, 3])]),
        message(1, &[option(1, &[0; 131])]),
        message(1, &[client(), option(3, &[0; 11])]),
        message(
            1,
            &[
                client(),
                option(3, &[[0; 12].as_slice(), &[0, 5, 0, 4, 1, 2, 3, 4]].concat()),
            ],
        ),
    ] {
        assert_eq!(ask(&mut server, &bad), Err(Refusal::Malformed), "{bad:?}");
    }
}

#[test]
fn a_guest_that_floods_is_held_to_its_allowance() {
    let mut served = served();
    served.leases.insert(OTHER, v6("430:9364:d8d8:84a9::2"));
    let mut server = Server::new(served);
    let solicit = message(1, &[client(), association(&[])]);
    let start = Instant::now();
    let source = addressing::link_local(MAC);
    let answered = (0..1000)
        .filter(|_| server.handle(start, source, &solicit).is_ok())
        .count();
    assert_eq!(answered, usize::try_from(BURST).unwrap());
    // Its neighbour notices nothing.
    assert!(
        server
            .handle(start, addressing::link_local(OTHER), &solicit)
            .is_ok()
    );
    assert!(server.handle(start + REFILL, source, &solicit).is_ok());
    assert_eq!(
        server.handle(start + REFILL, source, &solicit),
        Err(Refusal::TooMany)
    );
    assert!(
        server
            .handle(start + 1000 * REFILL, source, &solicit)
            .is_ok()
    );
}

#[test]
fn a_guest_that_is_gone_is_forgotten() {
    let mut server = server();
    let solicit = message(1, &[client(), association(&[])]);
    assert!(ask(&mut server, &solicit).is_ok());
    server.replace(Served {
        leases: BTreeMap::new(),
        ..served()
    });
    assert_eq!(ask(&mut server, &solicit), Err(Refusal::Stranger));
    assert!(server.allowances.is_empty());
}

#[test]
fn the_server_of_a_network_has_the_same_name_everywhere() {
    let there = Server::new(Served {
        leases: BTreeMap::new(),
        ..served()
    });
    assert_eq!(server().duid, there.duid);
    assert_eq!(there.duid[..2], [0, 4]);
    let elsewhere = duid(Subnet::containing(v6("430::")));
    assert_ne!(there.duid, elsewhere);
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_answered_in_bounds_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..LARGEST)) {
        if let Ok(answer) = ask(&mut server(), &bytes) {
            prop_assert!(answer.len() < 1280);
        }
    }

    #[test]
    fn damaged_messages_are_answered_in_bounds_or_refused(
        kind in 0..14_u8,
        addresses in 0..40_usize,
        copies in 1..6_usize,
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut server = server();
        let many = vec![lease(); addresses];
        let mut options = vec![client(), to(&server)];
        options.extend(vec![association(&many); copies]);
        let mut bytes = message(kind, &options);
        let position = at.index(bytes.len());
        bytes[position] = byte;
        bytes.truncate(1 + cut.index(bytes.len()));
        if let Ok(answer) = ask(&mut server, &bytes) {
            prop_assert!(answer.len() < 1280);
            split(&answer[4..]);
        }
    }
}
