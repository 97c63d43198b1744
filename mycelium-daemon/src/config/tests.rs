use super::*;

fn file(text: &str) -> Result<(FileConfig, Vec<Notice>), ValueError> {
    let mut notices = Vec::new();
    let table = text.parse::<Table>().unwrap();
    FileConfig::from_table(table, Path::new("test.toml"), &mut notices)
        .map(|config| (config, notices))
}

fn merged(text: &str, flags: &NodeArgs) -> Config {
    merge(file(text).unwrap().0, flags, &mut Vec::new())
}

#[test]
fn nothing_given_means_the_ports_of_the_present_network() {
    let config = merged("", &NodeArgs::default());
    assert_eq!(config.tcp_listen_port, 9651);
    assert_eq!(config.quic_listen_port, Some(9651));
    assert_eq!(config.discovery.unwrap().port, 9650);
    assert_eq!(config.api_address.to_string(), "127.0.0.1:8989");
    assert_eq!(config.tun_name.as_deref(), Some("mycelium"));
    assert_eq!(config.peers, []);
}

#[test]
fn peers_are_a_list_or_one_text() {
    let one = file("peers = \"tcp://1.2.3.4:9651\"")
        .unwrap()
        .0
        .peers
        .unwrap();
    let list = file("peers = [\"tcp://1.2.3.4:9651\"]")
        .unwrap()
        .0
        .peers
        .unwrap();
    assert_eq!(one, list);
    assert_eq!(file("peers = []").unwrap().0.peers, Some(Vec::new()));
}

#[test]
fn scalars_may_be_quoted() {
    let (config, _) =
        file("tcp_listen_port = \"9652\"\nno_tun = \"yes\"\ndisable_quic = \"off\"").unwrap();
    assert_eq!(config.tcp_listen_port, Some(9652));
    assert_eq!(config.no_tun, Some(true));
    assert_eq!(config.disable_quic, Some(false));
}

#[test]
fn a_flag_that_equals_the_default_still_wins_over_the_file() {
    let flags = NodeArgs {
        tcp_listen_port: Some(9651),
        no_tun: Some(false),
        peers: Some(Vec::new()),
        ..NodeArgs::default()
    };
    let config = merged(
        "tcp_listen_port = 9652\nno_tun = true\npeers = [\"tcp://1.2.3.4:9651\"]",
        &flags,
    );
    assert_eq!(config.tcp_listen_port, 9651);
    assert!(config.tun_name.is_some());
    assert_eq!(config.peers, []);
}

#[test]
fn a_value_that_does_not_fit_names_key_value_and_remedy() {
    let of = |text| file(text).unwrap_err().to_string();
    assert_eq!(
        of("tcp_listen_port = 70000"),
        "tcp_listen_port = 70000: must be a port, 0 to 65535"
    );
    assert_eq!(
        of("no_tun = \"perhaps\""),
        "no_tun = \"perhaps\": must be true or false"
    );
    assert!(of("peers = [\"tcp://[400::1]:9651\"]").contains("400::/7"));
    assert!(of("peers = 5").contains("list of texts"));
    assert!(of("api_addr = \"localhost\"").contains("ip:port"));
    assert!(of("identities = 5").contains("[[identities]]"));
    assert!(of("[[identities]]\nname = \"a\"").contains("key_file"));
    assert!(of("[[identities]]\nname = \"a\"\nkey_file = \"k\"\nnetsn = \"x\"").contains("netsn"));
    let twice = "[[identities]]\nname = \"a\"\nkey_file = \"k\"\n";
    assert!(of(&format!("{twice}{twice}")).contains("another identity"));
}

#[test]
fn unknown_and_unsupported_keys_are_notices() {
    let (_, notices) = file("tpc_listen_port = 5\nenable_dns = true").unwrap();
    let codes: Vec<_> = notices.iter().map(|notice| notice.code).collect();
    assert_eq!(codes.len(), 2);
    assert!(codes.contains(&"config-key-unknown") && codes.contains(&"config-key-not-supported"));
}

#[test]
fn a_namespace_is_a_name_of_ip_netns_or_a_path() {
    for (text, path) in [
        ("web", "/run/netns/web"),
        ("/proc/7/ns/net", "/proc/7/ns/net"),
    ] {
        assert_eq!(namespace_path(text), Path::new(path));
    }
}

#[test]
fn client_commands_find_the_node_where_it_was_put() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mycelium.toml");
    let api = |content: &str, flags: &[&str]| {
        std::fs::write(&path, content).unwrap();
        let line = ["mycelium", "-c", path.to_str().unwrap()];
        let line = line.iter().chain(flags).map(Into::into);
        match api_of_node(&crate::args::parse(line).unwrap().line) {
            Api::At(address) => address.to_string(),
            Api::Default(address) => format!("default, {address}"),
        }
    };
    let file = "api_addr = \"127.0.0.1:1\"\npeers = 5";
    assert_eq!(api(file, &[]), "127.0.0.1:1");
    assert_eq!(api(file, &["--api-addr", "127.0.0.1:2"]), "127.0.0.1:2");
    assert_eq!(api(file, &["--api-socket", "/a/b"]), "/a/b");
    assert_eq!(api("api_socket = \"/c\"", &[]), "/c");
    for nothing in ["", "broken = ", "api_addr = 7"] {
        assert_eq!(api(nothing, &[]), "default, 127.0.0.1:8989");
    }
    assert_eq!(api("", &["--api-socket", "off"]), "127.0.0.1:8989");
}
