//! A new server in the place of one that runs: nobody asks in vain, nothing said is forgotten.

use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Stdio};

use hickory_proto::rr::RecordType;

use crate::cluster::World;
use crate::harness::{
    Asking, Meridian, PATIENCE, PUSHED, Process, ask, data, free_port, question, wait_for,
    wait_until,
};

const CONFIG: &str = "node: { name: test, listen: \"127.0.0.1:DNS\", state: state }
http: { listen: \"127.0.0.1:HTTP\", socket: ctl.sock }
regions: { us: { at: [39, -77] }, eu: { at: [53, -6] } }
zones: { example.com: { ns: [ns1.example.net, ns2.example.net] } }
services:
  web: { names: [www.example.com], regions: { us: 192.0.2.10, eu: 192.0.2.20 } }
";

fn config() -> String {
    let port = || free_port().to_string();
    CONFIG.replace("DNS", &port()).replace("HTTP", &port())
}

const DUBLIN: &str = "134.226.1.0/24";

#[test]
fn a_server_is_replaced_under_load_and_no_query_is_lost() {
    replaced_under_load(&config());
}

#[test]
fn nor_is_one_by_a_ring() {
    replaced_under_load(&by_ring());
}

/// What the kernel has taken for a worker by then is that worker's alone.
fn by_ring() -> String {
    config().replace("node: {", "node: { io_uring: true,")
}

/// Runs a program, and has the kernel refuse it a ring: call 425, by EPERM.
const FORBIDDING: &str = "import ctypes, os, struct, sys
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (6, 0, 0, 0x50001), (6, 0, 0, 0x7fff0000)]
rules = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *of) for of in code))
program = ctypes.create_string_buffer(struct.pack('HxxxxxxP', len(code), ctypes.addressof(rules)))
call = ctypes.CDLL(None, use_errno=True).prctl
assert call(38, 1, 0, 0, 0) == 0 and call(22, 2, program) == 0, ctypes.get_errno()
os.execv(sys.argv[1], sys.argv[1:])
";

#[test]
fn where_a_ring_is_forbidden_there_are_answers_without_one() {
    let mut command = Command::new("python3");
    command.args(["-c", FORBIDDING, env!("CARGO_BIN_EXE_meridian")]);
    let server = Meridian::start_with(command, tempfile::tempdir().unwrap(), &by_ring());
    assert_eq!(server.addresses("www.example.com"), ["192.0.2.10"]);
    wait_until(&true, || server.logged("no io_uring") > 0);
}

fn replaced_under_load(config: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Meridian::start(folder, config);
    let (drained, told) = server.ctl(&["drain", "us", "--reason", "kernel upgrade"]);
    assert!(drained, "{told}");
    let mut asking: Vec<Asking> =
        (0..4).map(|_| Asking::over_udp(server.dns, "www.example.com")).collect();
    asking.push(Asking::over_tcp(server.dns, "www.example.com"));
    for _ in 0..3 {
        server = server.replaced();
        assert_eq!(server.addresses("www.example.com"), ["192.0.2.20"], "what was said is known");
        assert_eq!(server.get("/readyz").0, 200);
    }
    let asked: Vec<usize> = asking.into_iter().map(Asking::none_lost).collect();
    assert!(asked.iter().all(|asked| *asked > 100), "{asked:?}");
    let (cleared, told) = server.ctl(&["clear", "us"]);
    assert!(cleared, "{told}");
    assert_eq!(server.addresses("www.example.com"), ["192.0.2.10"]);
}

#[test]
fn a_successor_that_fails_changes_nothing() {
    let mut server = Meridian::start(tempfile::tempdir().unwrap(), &config());
    let asking = Asking::over_udp(server.dns, "www.example.com");
    let good = std::fs::read_to_string(server.path("meridian.yaml")).unwrap();
    let replace = |config: &str| {
        let file = server.path("next.yaml");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
        let output = command.arg("serve").arg("--replace").arg("--config").arg(file).output();
        let output = output.unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), told)
    };
    let (code, told) = replace(&good.replace("regions", "regoins"));
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("did you mean `regions`?"), "{told}");
    // An address that somebody else has: it fails with the sockets in its hands.
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let cluster = format!(
        "cluster: {{ key: key, nodes: {{ test: \"{}\", other: \"127.0.0.1:9\" }} }}\n",
        taken.local_addr().unwrap()
    );
    server.write("key", &[b'k'; 64]);
    let (code, told) = replace(&format!("{good}{cluster}"));
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("(cluster)"), "{told}");
    wait_for("its word", || (server.logged("it serves on") > 0).then_some(()));
    let elsewhere = good.replace("state: state", "state: elsewhere");
    let (code, told) = replace(&elsewhere);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("no server is there that could be replaced"), "{told}");
    let (code, told) = replace(&good.replace(", state: state", ""));
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("needs `node.state`"), "{told}");
    // Operators are heard again, and a good one takes the place.
    let (fine, told) = server.ctl(&["drain", "us", "--reason", "kernel upgrade"]);
    assert!(fine, "{told}");
    server = server.replaced();
    assert_eq!(server.addresses("www.example.com"), ["192.0.2.20"]);
    asking.none_lost();
}

#[test]
fn a_successor_that_hangs_is_told_of_and_can_be_ended() {
    let server = Meridian::start(tempfile::tempdir().unwrap(), &config());
    let mut successor = UnixStream::connect(server.path("state/takeover.sock")).unwrap();
    successor.write_all(b"1").unwrap();
    wait_for("its begin", || (server.logged("takes this one's place") > 0).then_some(()));
    let (fine, told) = server.ctl(&["drain", "us", "--reason", "kernel upgrade"]);
    let who = format!("process {} takes this server's place", std::process::id());
    assert!(!fine && told.contains(&who) && told.contains("say it again"), "{told}");
    assert_eq!(server.ctl(&["overrides"]), (true, "nothing is overridden".to_owned()));
    // Nothing else either that would be lost with this process.
    let (fine, told) = server.ctl(&["failback", "web/us"]);
    assert!(!fine && told.contains(&who), "{told}");
    // Another one does not wait for ever.
    let errors = std::fs::File::create(server.path("errors")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
    command.arg("serve").arg("--replace").arg("--config").arg(server.path("meridian.yaml"));
    let mut another = Process::start(command.stderr(errors));
    let status = wait_for("its refusal", || another.ended());
    let told = std::fs::read_to_string(server.path("errors")).unwrap();
    assert_eq!(status.code(), Some(1), "{told}");
    assert!(told.contains("it has said nothing for 8 s"), "{told}");
    drop(successor);
    wait_for("its end", || (server.logged("it serves on") > 0).then_some(()));
    let (fine, told) = server.ctl(&["drain", "us", "--reason", "kernel upgrade"]);
    assert!(fine, "{told}");
    assert_eq!(server.addresses("www.example.com"), ["192.0.2.20"]);
}

#[test]
fn who_comes_and_says_nothing_keeps_nobody_from_taking_the_place() {
    let server = Meridian::start(tempfile::tempdir().unwrap(), &config());
    let _silent = UnixStream::connect(server.path("state/takeover.sock")).unwrap();
    let server = server.replaced();
    assert_eq!(server.addresses("www.example.com").len(), 1);
}

#[test]
fn a_signal_starts_what_is_installed_now_and_systemd_follows() {
    let folder = tempfile::tempdir().unwrap();
    let (file, notify) = (folder.path().join("meridian.yaml"), folder.path().join("notify"));
    std::fs::write(&file, config()).unwrap();
    let socket = UnixDatagram::bind(&notify).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let main = || -> u32 {
        let mut buffer = [0; 256];
        wait_for("a main process", || {
            let length = socket.recv(&mut buffer).unwrap();
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let is_ready = text.contains("READY=1");
            let process = text.lines().find_map(|line| line.strip_prefix("MAINPID="))?;
            is_ready.then(|| process.parse().unwrap())
        })
    };
    // systemd names the process that it starts as the one whose life it wants to hear of.
    let mut command = Command::new("sh");
    command.args(["-c", "export WATCHDOG_PID=$$; exec \"$0\" \"$@\""]);
    command.arg(env!("CARGO_BIN_EXE_meridian"));
    command.arg("serve").arg("--config").arg(&file).stderr(Stdio::null());
    command.env("NOTIFY_SOCKET", &notify).env("WATCHDOG_USEC", "2000000");
    let mut process = Process::start(&mut command);
    assert_eq!(main(), process.id());
    process.signal("USR2");
    let next = main();
    assert_ne!(next, process.id());
    let status = wait_for("the end of the first", || process.ended());
    assert!(status.success(), "{status}");
    // What is said from here on is the next one's word.
    socket.set_nonblocking(true).unwrap();
    while socket.recv(&mut [0; 256]).is_ok() {}
    socket.set_nonblocking(false).unwrap();
    let mut buffer = [0; 256];
    let said = socket.recv(&mut buffer).map(|length| buffer[..length].to_owned());
    let ended = Command::new("kill").arg(next.to_string()).status().unwrap();
    assert!(ended.success());
    assert_eq!(String::from_utf8(said.unwrap()).unwrap().trim(), "WATCHDOG=1");
}

#[test]
fn a_node_that_is_replaced_stays_in_the_cluster_and_so_does_one_that_nobody_replaced() {
    let mut world = World::with(3, "", "", "");
    let node = world.nodes[0].take().unwrap();
    world.nodes[0] = Some(node.replaced());
    let heard = |world: &World| [0, 1, 2].map(|row| world.node(row).metric("meridian_nodes_heard"));
    wait_until(&[2.0; 3], || heard(&world));
    // Somebody begins to take its place, speaks for it, and ends.
    let mut successor = UnixStream::connect(world.node(0).path("state/takeover.sock")).unwrap();
    successor.write_all(b"1q").unwrap();
    // It goes on for a moment with what it heard; the others hear it no more.
    wait_until(&[2.0, 1.0, 1.0], || heard(&world));
    drop(successor);
    wait_until(&[2.0; 3], || heard(&world));
    let (drained, told) = world.node(0).ctl(&["drain", "eu", "--reason", "heard by all"]);
    assert!(drained, "{told}");
    let us = vec![world.us.address.to_string()];
    wait_until(&[&us, &us, &us].map(Clone::clone), || {
        [0, 1, 2].map(|row| world.node(row).addresses_for("www.example.com", DUBLIN))
    });
}

#[test]
fn a_node_that_nobody_replaced_is_heard_again_also_if_its_clock_is_behind() {
    let mut world = World::with(3, "", "", "");
    // Its clock is put back while it is off.
    let Meridian { mut process, folder, .. } = world.nodes[0].take().unwrap();
    process.kill();
    let config = std::fs::read_to_string(folder.path().join("meridian.yaml")).unwrap();
    world.nodes[0] = Some(Meridian::start_at("-1h", folder, &config));
    let heard = |world: &World| [1, 2].map(|row| world.node(row).metric("meridian_nodes_heard"));
    wait_until(&[2.0; 2], || heard(&world));
    let mut successor = UnixStream::connect(world.node(0).path("state/takeover.sock")).unwrap();
    successor.write_all(b"1q").unwrap();
    wait_until(&[1.0; 2], || heard(&world));
    drop(successor);
    wait_until(&[2.0; 2], || heard(&world));
}

#[test]
fn the_service_manager_passes_the_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("meridian.yaml");
    let text = config();
    std::fs::write(&file, text.replace(", state: state", "")).unwrap();
    let listed = text.split('"').nth(1).unwrap();
    let server: SocketAddr = listed.parse().unwrap();
    let mut command = Command::new("systemd-socket-activate");
    command.args(["--datagram", "--listen", listed, env!("CARGO_BIN_EXE_meridian")]);
    command.args(["serve", "--config"]).arg(&file).stderr(Stdio::null());
    let _process = Process::start(&mut command);
    // The first question starts the server, and is answered by it.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let wire = question("www.example.com", RecordType::A, None).to_vec().unwrap();
    wait_for("the socket", || {
        socket.send(&wire).ok()?;
        // Nobody listens yet: the host says so.
        let length = socket.recv(&mut [0; 512]).ok()?;
        (length > wire.len()).then_some(())
    });
    assert_eq!(data(&ask(server, "www.example.com", RecordType::A, None)), ["192.0.2.10"]);
}

#[test]
fn what_was_pushed_is_known_to_the_next_process_until_its_time_is_over() {
    let server = Meridian::serve(PUSHED);
    let [us, eu] = ["192.0.2.1", "192.0.2.2"];
    for (address, state) in [(us, "down"), (us, "up"), (eu, "down")] {
        let (fine, told) = server.ctl(&["push", "told", address, state, "--for", "2h"]);
        assert!(fine, "{told}");
    }
    let knows = |server: &Meridian| {
        server.wait_for_endpoint(us.parse().unwrap(), "up", "ok");
        server.wait_for_endpoint(eu.parse().unwrap(), "down", "told to be down");
    };
    knows(&server);
    let server = server.replaced();
    knows(&server);
    // As after a power cut.
    let server = server.restart();
    knows(&server);
    assert_eq!(server.metric("meridian_stale_targets"), 0.0);
}
