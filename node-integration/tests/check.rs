//! What commonly breaks is found, each provoked; where all is well nothing is.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::net::{IpAddr, Ipv6Addr};
use std::process::Command;

use common::{Host, key, on_a_host};
use node_integration::check::{self, Finding};
use node_integration::desired::{AttachmentSpec, Kind, Masquerade, Name, NetworkSpec};
use node_integration::host::Host as Users;
use node_integration::reconcile::NoNode;
use node_integration::{Namespace, link, named, sysctl};

const OVERLAY: IpAddr = IpAddr::V6(Ipv6Addr::new(0x400, 0, 0, 0, 0, 0, 0, 0));

fn users(host: &Host) -> Users {
    Users {
        directory: host.directory(),
        notes: host.scratch.path().join("notes"),
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// A network `net` with a workload `www`, which have nothing wrong with them.
fn lay_out(host: &Host) -> Users {
    let users = users(host);
    let mut spec = NetworkSpec::with_key(key(7));
    spec.masquerade = Some(Masquerade { pair: 0 });
    users
        .create_network(&name("net"), &spec, &mut NoNode)
        .unwrap();
    let spec = AttachmentSpec::of_kind(Kind::Netns);
    users
        .attach(&name("net"), &name("www"), &spec, &mut NoNode)
        .unwrap();
    assert_eq!(found(host), []);
    users
}

fn found(host: &Host) -> Vec<Finding> {
    let mut found = check::everything(&host.directory()).unwrap();
    // The kernel counts for all namespaces, and for ever; it has a test of its own.
    found.retain(|finding| finding.code != check::NEIGHBOURS);
    found
}

/// There is one finding, of this code and subject, whose words have these in them; its hint is a command that ends it.
fn finds(host: &Host, code: &str, subject: &str, words: &str) -> Finding {
    let found = found(host);
    let [finding] = found.as_slice() else {
        panic!("{code} {subject}: {found:#?}");
    };
    assert_eq!((finding.code, finding.subject.as_str()), (code, subject));
    assert!(finding.text.contains(words), "{}", finding.text);
    assert!(!finding.hint.is_empty());
    finding.clone()
}

/// Do as the hint says; then nothing is found any more.
fn follow(host: &Host, finding: &Finding) {
    let command = finding.hint.split(", then").next().unwrap();
    let done = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(
        done.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    if finding.hint.contains("net apply") {
        host.reconcile();
    }
    assert_eq!(found(host), [], "{command}");
}

#[test]
fn mtus_that_somebody_changed() {
    on_a_host(|host| {
        lay_out(host);
        let here = Namespace::current().unwrap();
        let router = named::open("my-net").unwrap();
        let inside = named::open("net-www").unwrap();
        for (namespace, interface, mtu, subject) in [
            (&here, "m-net", 1300, "net"),
            (&here, "u-net", 1400, "net"),
            (&router, "my0", 1500, "net"),
            (&router, "gateway", 9000, "net"),
            (&inside, "eth0", 1500, "net/www"),
        ] {
            link::set_mtu(namespace, interface, mtu).unwrap();
            let finding = finds(host, check::MTU, subject, &format!("{interface} of "));
            follow(host, &finding);
        }
    });
}

#[test]
fn routers_that_do_not_forward() {
    on_a_host(|host| {
        lay_out(host);
        let router = named::open("my-net").unwrap();
        for (namespace, key) in [
            (&router, "ipv6/conf/my0/forwarding"),
            (&router, "ipv6/conf/gateway/forwarding"),
            (&router, "ipv4/ip_forward"),
            (&Namespace::current().unwrap(), "ipv4/ip_forward"),
        ] {
            sysctl::set(namespace, key, "0").unwrap();
            let finding = finds(host, check::FORWARDING, "net", "forwards nothing");
            follow(host, &finding);
        }
    });
}

#[test]
fn ipv6_that_is_disabled() {
    on_a_host(|host| {
        lay_out(host);
        let router = named::open("my-net").unwrap();
        let inside = named::open("net-www").unwrap();
        for (namespace, key, subject) in [
            (&inside, "ipv6/conf/all/disable_ipv6", "net/www"),
            (&inside, "ipv6/conf/eth0/disable_ipv6", "net/www"),
            (&router, "ipv6/conf/my0/disable_ipv6", "net"),
            (&router, "ipv6/conf/all/disable_ipv6", "net"),
            (
                &Namespace::current().unwrap(),
                "ipv6/conf/all/disable_ipv6",
                "host",
            ),
        ] {
            sysctl::set(namespace, key, "1").unwrap();
            let finding = finds(host, check::IPV6, subject, "IPv6 disabled");
            follow(host, &finding);
        }
    });
}

/// Through `vpn0`, with a metric of its own: with the same it would be refused.
fn add_overlay_route(namespace: &Namespace) {
    let mut command = Command::new("ip");
    command.args([
        "-6", "route", "add", "400::/7", "dev", "vpn0", "metric", "77",
    ]);
    let added = namespace.run(|| command.status().unwrap()).unwrap();
    assert!(added.success());
}

#[test]
fn other_routes_to_the_overlay() {
    on_a_host(|host| {
        lay_out(host);
        let here = Namespace::current().unwrap();
        let other = Namespace::create().unwrap();
        let router = named::open("my-net").unwrap();
        let inside = named::open("net-www").unwrap();
        for (namespace, subject) in [(&router, "net"), (&inside, "net/www")] {
            link::veth(namespace, "vpn0", &other, "far").unwrap();
            link::up(namespace, "vpn0").unwrap();
            add_overlay_route(namespace);
            finds(host, check::OVERLAY_ROUTE, subject, "400::/7 through vpn0");
            link::delete(namespace, "vpn0").unwrap();
            assert_eq!(found(host), []);
        }
        // On the host one is the node's; a second is not, nor is a part of it.
        for (node, interface) in [("node0", "a"), ("vpn0", "b")] {
            link::veth(&here, node, &other, interface).unwrap();
            link::up(&here, node).unwrap();
        }
        link::add_route(&here, OVERLAY, 7, None, "node0").unwrap();
        assert_eq!(found(host), []);
        link::add_route(&here, OVERLAY, 8, None, "vpn0").unwrap();
        let finding = finds(host, check::OVERLAY_ROUTE, "host", "400::/8 through vpn0");
        follow(host, &finding);
        add_overlay_route(&here);
        finds(host, check::OVERLAY_ROUTE, "host", "400::/7 is routed to ");
    });
}

#[test]
fn keys_seeds_and_macs_that_two_have() {
    on_a_host(|host| {
        lay_out(host);
        let root = host.scratch.path().join("net.d");
        let copy = |from: &str, to: &str| {
            let to = root.join(to);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(root.join(from), to).unwrap();
        };
        copy("net/network.json", "next/network.json");
        finds(host, check::DUPLICATE, "next", "have the same key");
        std::fs::remove_dir_all(root.join("next")).unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(root.join(format!("net/attachments/{name}.json")), text).unwrap();
        };
        write("w1", r#"{"kind":"tap","seed":"001122334455"}"#);
        write("w2", r#"{"kind":"tap","seed":"001122334455"}"#);
        finds(host, check::DUPLICATE, "net/w2", "give one another seed");
        write("w1", r#"{"kind":"netns","mac":"02:00:00:00:00:07"}"#);
        write("w2", r#"{"kind":"netns","mac":"02:00:00:00:00:07"}"#);
        finds(
            host,
            check::DUPLICATE,
            "net/w2",
            "both have the MAC 02:00:00:00:00:07",
        );
    });
}

#[test]
fn what_another_has_is_refused_and_leaves_it_alone() {
    on_a_host(|host| {
        let users = lay_out(host);
        let attach = |called: &str, spec: &AttachmentSpec| {
            users.attach(&name("net"), &name(called), spec, &mut NoNode)
        };
        let mut spec = AttachmentSpec::of_kind(Kind::Tap);
        spec.seed = Some("001122334455".parse().unwrap());
        spec.mac = Some("02:00:00:00:00:07".parse().unwrap());
        attach("vm1", &spec).unwrap();
        for (seed, mac, words) in [
            (
                "001122334455",
                "02:00:00:00:00:08",
                ":ff0f:11:2233:4455: give vm2 another seed",
            ),
            (
                "001122334456",
                "02:00:00:00:00:07",
                "vm1 and vm2 would both have the MAC",
            ),
        ] {
            spec.seed = Some(seed.parse().unwrap());
            spec.mac = Some(mac.parse().unwrap());
            let refused = attach("vm2", &spec).unwrap_err().to_string();
            assert!(refused.contains(words), "{refused}");
            assert_eq!(host.reconcile(), 0, "{words}");
        }
        let mut spec = AttachmentSpec::of_kind(Kind::Veth);
        spec.netns = Some("nowhere".into());
        let refused = attach("box", &spec).unwrap_err().to_string();
        assert!(
            refused.contains("open the network namespace /run/netns/nowhere"),
            "{refused}"
        );
        assert_eq!(host.reconcile(), 0);
    });
}

/// More ports than attachments may have, so that some are not ours.
#[test]
fn bridges_with_hardly_a_free_port() {
    on_a_host(|host| {
        lay_out(host);
        let ports: String = (0..500)
            .map(|number| {
                format!(
                    "link add a{number} master m-net type veth peer name b{number}\n\
                     link set b{number} master m-net\n"
                )
            })
            .collect();
        let file = host.scratch.path().join("ports");
        std::fs::write(&file, ports).unwrap();
        let batch = Command::new("ip")
            .arg("-batch")
            .arg(&file)
            .status()
            .unwrap();
        assert!(batch.success());
        finds(host, check::PORTS, "net", "bridge m-net has 1002 ports");
    });
}

/// The table is the machine's: it is full for the moment that the test needs.
#[test]
fn a_table_of_neighbours_that_was_full() {
    on_a_host(|host| {
        let here = Namespace::current().unwrap();
        let fulls = || {
            let found = check::host().unwrap();
            found
                .into_iter()
                .find(|finding| finding.code == check::NEIGHBOURS)
        };
        let before = fulls();
        let limit: u32 = match sysctl::get(&here, "ipv6/neigh/default/gc_thresh3") {
            Ok(limit) => limit.parse().unwrap(),
            // It is the first namespace's to set.
            Err(_) => 1024,
        };
        link::bridge(&here, "lan").unwrap();
        link::up(&here, "lan").unwrap();
        let entries: String = (1..=limit + 1)
            .map(|number| {
                format!(
                    "neigh add fe80::1:{number:x} lladdr 02:00:00:00:00:01 dev lan nud reachable\n"
                )
            })
            .collect();
        let file = host.scratch.path().join("neighbours");
        std::fs::write(&file, entries).unwrap();
        let batch = Command::new("ip")
            .arg("-force")
            .arg("-batch")
            .arg(&file)
            .output()
            .unwrap();
        link::delete(&here, "lan").unwrap();
        let after = fulls();
        assert!(
            !batch.status.success(),
            "the table took {limit} entries and more"
        );
        assert_ne!(before, after);
        let finding = after.unwrap();
        assert!(finding.text.contains("was full"), "{}", finding.text);
        assert!(finding.hint.contains("gc_thresh3"), "{}", finding.hint);
    });
}
