//! Checks of every kind, against real servers of that kind.

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::harness::{
    Meridian, NODE, Nginx, Process, free_port, own_address, wait_for, wait_until,
};

/// One service with one endpoint, and this check of it.
fn config(check: &str, address: IpAddr) -> String {
    format!(
        "regions: {{ us: {{ at: [39, -77] }} }}
checks: {{ own: {{ {check}, rise: 1, hold_down: 0s }} }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:
  web: {{ names: [www.example.com], check: own, regions: {{ us: {address} }} }}
"
    )
}

/// A server of the gRPC health protocol, by gRPC's own library: it says what is in a file.
const GRPC: &str = r#"
import grpc, sys
from concurrent import futures
address, states = sys.argv[1:]
def check(request, context):
    # Field 1 of the request: the service.
    service = request[2:].decode() if request else ""
    states_now = dict(line.split("=") for line in open(states).read().split())
    if service not in states_now:
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return bytes([8, int(states_now[service])])
handler = grpc.unary_unary_rpc_method_handler(check)
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((
    grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler}),))
assert server.add_insecure_port(address)
server.start()
server.wait_for_termination()
"#;

#[test]
fn grpc_servers_tell_whether_they_serve() {
    let folder = tempfile::tempdir().unwrap();
    let (program, states) = (folder.path().join("server.py"), folder.path().join("states"));
    std::fs::write(&program, GRPC).unwrap();
    std::fs::write(&states, "=1 my.Service=1\n").unwrap();
    let (address, port) = (own_address(), free_port());
    let start = || {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(&program).arg(format!("{address}:{port}")).arg(&states);
        Process::start(&mut command)
    };
    let mut process = start();
    let server = Meridian::serve(&config(&format!("grpc: my.Service, port: {port}"), address));
    server.wait_for_endpoint(address, "up", "ok");
    std::fs::write(&states, "=1 my.Service=2\n").unwrap();
    server.wait_for_endpoint(address, "down", "not serving");
    std::fs::write(&states, "=1 my.Service=1\n").unwrap();
    server.wait_for_endpoint(address, "up", "ok");
    std::fs::write(&states, "=1\n").unwrap();
    server.wait_for_endpoint(address, "down", "not serving");
    process.kill();
    server.wait_for_endpoint(address, "down", "connection refused");
    let _process = start();
    std::fs::write(&states, "=1 my.Service=1\n").unwrap();
    server.wait_for_endpoint(address, "up", "ok");

    // The server as a whole; and one that speaks no gRPC.
    let whole = Meridian::serve(&config(&format!("grpc: \"\", port: {port}"), address));
    whole.wait_for_endpoint(address, "up", "ok");
    let nginx = Nginx::start(port);
    let other = Meridian::serve(&config(&format!("grpc: \"\", port: {port}"), nginx.address));
    wait_until(&"down".to_owned(), || other.endpoint(nginx.address).0);
}

#[test]
fn a_request_has_the_method_and_the_headers_that_are_said() {
    let nginx = Nginx::start(free_port());
    let port = nginx.port;
    let is = |check: &str, state: &str, last: &str| {
        let check = format!("http: /guarded, port: {port}{check}");
        let server = Meridian::serve(&config(&check, nginx.address));
        server.wait_for_endpoint(nginx.address, state, last);
        let (_, told) = server.get("/api/v1/status");
        assert!(!told.contains("own/1"), "{told}");
    };
    let headers = "headers: { X-Probe: \"yes\", User-Agent: own/1 }";
    is(&format!(", method: HEAD, {headers}"), "up", "ok");
    is(&format!(", {headers}"), "down", "unexpected status 403");
    is(", method: HEAD, headers: { x-probe: \"yes\" }", "down", "unexpected status 403");
}

#[test]
fn name_servers_are_asked_for_a_name() {
    let (address, port) = (own_address(), free_port());
    let mut command = Command::new("dnsmasq");
    command.args(["--no-daemon", "--no-resolv", "--no-hosts", "--conf-file=/dev/null"]);
    command.args([&format!("--port={port}"), &format!("--listen-address={address}")]);
    command.args(["--bind-interfaces", "--address=/www.example.com/192.0.2.7"]);
    let mut dnsmasq = Process::start(&mut command);
    let serve = |check: &str| {
        Meridian::serve(&config(&format!("dns: www.example.com, port: {port}{check}"), address))
    };
    let server = serve("");
    server.wait_for_endpoint(address, "up", "ok");
    let is = |check: &str, state: &str, last: &str| {
        serve(check).wait_for_endpoint(address, state, last);
    };
    is(", expect: 192.0.2.7", "up", "ok");
    is(", expect: 192.0.2.8", "down", "what is expected is not in the answer");
    is(", expect: NXDOMAIN", "down", "unexpected response code 0");
    dnsmasq.kill();
    server.wait_for_endpoint(address, "down", "connection refused");
}

#[test]
fn a_command_decides_by_how_it_ends_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("check");
    let script = |text: &str| {
        let aside = folder.path().join("aside");
        let mut file = std::fs::File::create(&aside).unwrap();
        write!(file, "#!/bin/sh\n{text}\n").unwrap();
        drop(file);
        assert!(Command::new("chmod").arg("755").arg(&aside).status().unwrap().success());
        std::fs::rename(&aside, &program).unwrap();
    };
    let (address, seen, started) =
        (own_address(), folder.path().join("seen"), folder.path().join("started"));
    script(&format!("echo $MERIDIAN_ADDRESS $1 > {}", seen.display()));
    let check = format!("command: [{}, word], timeout: 1s", program.display());
    let server = Meridian::serve(&config(&check, address));
    server.wait_for_endpoint(address, "up", "ok");
    wait_until(&format!("{address} word\n"), || std::fs::read_to_string(&seen).unwrap());
    let ends = |text: &str, state: &str, last: &str| {
        script(text);
        server.wait_for_endpoint(address, state, last);
    };
    ends("exit 3", "down", "exit status 3");
    // One that dies by a signal, as shells tell it.
    ends("kill -9 $$", "down", "exit status 137");
    ends("exit 0", "up", "ok");
    // What it says last is told with it, in the history too; it may say more than anybody hears.
    ends(
        "yes | head -c 9000000 >&2; printf 'first\\n\\033[1mno answer\\n' >&2; exit 4",
        "down",
        "exit status 4: \u{fffd}[1mno answer",
    );
    wait_until(&"exit status 4: \u{fffd}[1mno answer".to_owned(), || {
        server.status()["events"][0]["why"].as_str().unwrap().to_owned()
    });
    ends("echo asking >&2; exec yes >&2", "down", "no answer in time, nothing came back: y");
    // One that says nothing more itself, and what it started may.
    ends("sleep 5 & echo left >&2; exit 5", "down", "exit status 5: left");
    ends("echo nothing wrong >&2", "up", "ok");
    // One that is good, and one that hangs, with a child that would stay.
    let stays = format!("sleep 1234 & echo $! >> {}", started.display());
    ends(&format!("{stays}; exit 0"), "up", "ok");
    ends(&format!("{stays}; exit 6"), "down", "exit status 6");
    script(&format!("{stays}; wait"));
    wait_until(&true, || server.endpoint(address).1.starts_with("no answer in time"));
    script("exit 0");
    server.wait_for_endpoint(address, "up", "ok");
    let children = std::fs::read_to_string(&started).unwrap();
    assert!(children.lines().count() >= 4, "{children}");
    let alive = || {
        let is_alive = |id: &&str| {
            let state = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            // One that is dead and not waited for by its init is none either.
            !state.is_empty() && !state.contains(") Z ")
        };
        children.lines().filter(is_alive).count()
    };
    wait_until(&0, alive);
}

#[test]
fn a_program_that_is_not_there_is_named_once_and_runs_as_soon_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (address, program) = (own_address(), folder.path().join("late"));
    let server = Meridian::serve(&config(&format!("command: [{}]", program.display()), address));
    let missing = "late: No such file or directory";
    let probed = || server.metric("meridian_probes_total{outcome=\"local\"}") >= 4.0;
    wait_for("some probes", || probed().then_some(()));
    // Ahead, with line and column, and when it was first tried.
    assert_eq!(server.logged(missing), 2);
    assert_eq!(server.logged("meridian.yaml:4:27: warning: checks.own.command"), 1);
    std::os::unix::fs::symlink("/usr/bin/true", &program).unwrap();
    server.wait_for_endpoint(address, "up", "ok");
    assert_eq!(server.logged("late: it runs again"), 1);
    wait_until(&false, || server.status()["config"]["warnings"].to_string().contains("late"));
}

#[test]
fn commands_that_wait_for_their_turn_are_no_word_about_their_targets() {
    // Six times as many as run at once: the last of them begin when the first would have timed out.
    let addresses: Vec<String> = (1..=192).map(|last| format!("192.0.2.{last}")).collect();
    let server = Meridian::serve(&format!(
        "regions: {{ here: {{}} }}
checks: {{ own: {{ command: [/usr/bin/sleep, \"0.8\"], interval: 1m, timeout: 3s }} }}
zones: {{ example.com: {{ ns: [ns1.example.net] }} }}
services:
  web: {{ names: [www.example.com], check: own, regions: {{ here: [{}] }} }}
",
        addresses.join(", ")
    ));
    let probed = || server.metric("meridian_probes_total{outcome=\"success\"}") >= 192.0;
    wait_for("a probe of each", || probed().then_some(()));
    let others = ["timeout", "local"]
        .map(|of| server.metric(&format!("meridian_probes_total{{outcome=\"{of}\"}}")));
    assert_eq!(others, [0.0; 2]);
}

#[test]
fn what_others_tell_counts_at_once_and_as_long_as_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let address = own_address();
    let write = |folder: &Path, text: String| {
        std::fs::write(folder.join("aside"), text).unwrap();
        std::fs::rename(folder.join("aside"), folder.join("states.txt")).unwrap();
    };
    write(folder.path(), format!("{address} up\n"));
    let server = Meridian::serve_in(folder, &config("pushed: states.txt", address));
    server.wait_for_endpoint(address, "up", "ok");
    write(server.folder.path(), format!("{address} down\n"));
    server.wait_for_endpoint(address, "down", "told to be down");
    // Over the API it goes before the file, until its time is over.
    let ip = address.to_string();
    let (fine, told) = server.ctl(&["push", "own", &ip, "up", "--for", "3s"]);
    assert!(fine, "{told}");
    server.wait_for_endpoint(address, "up", "ok");
    server.wait_for_endpoint(address, "down", "told to be down");
    let (fine, told) = server.ctl(&["push", "own", "192.0.2.1", "up", "--for", "3s"]);
    assert!(!fine && told.contains("no endpoint at 192.0.2.1"), "{told}");
    // Nobody says anything any more: what was believed stands, and is stale.
    write(server.folder.path(), String::new());
    wait_until(&1.0, || server.metric("meridian_stale_targets"));
    server.wait_for_endpoint(address, "down", "nobody tells its state");
    // That is not this node's trouble.
    assert!(server.metric("meridian_probes_total{outcome=\"untold\"}") > 0.0);
    assert_eq!(server.metric("meridian_probes_total{outcome=\"local\"}"), 0.0);
    // What tells nothing because it is written wrong is logged, and that there is no file.
    write(server.folder.path(), format!("{address} up # ok\n{address} Down\n"));
    server.wait_for_endpoint(address, "up", "ok");
    wait_until(&1, || server.logged("states.txt:2:1: warning: expected ADDRESS up|down [END]"));
    std::fs::remove_file(server.path("states.txt")).unwrap();
    wait_until(&1, || server.logged("states.txt: warning: there is no file"));
}

/// A server of the endpoints 192.0.2.1 to 192.0.2.200, which go by a file of states, and for which
/// each opening of the file takes as long as is told; a file that lists who opened it; and the
/// tracer that sees to that, which is to end first.
fn telling(folder: TempDir, opening: &str) -> (Meridian, PathBuf, Tracer) {
    let (states, trace) = (folder.path().join("states.txt"), folder.path().join("trace"));
    let mut command = Command::new("strace");
    // The tracer stands aside, so that the process that is started is the server.
    command.args(["-D", "-f", "-q", "--seccomp-bpf", "-e", "trace=openat"]).arg("-P").arg(&states);
    command.arg(format!("--inject=openat:delay_enter={opening}")).arg("-o").arg(&trace);
    command.arg(env!("CARGO_BIN_EXE_meridian"));
    let endpoints: Vec<String> = (1..=200).map(|last| format!("192.0.2.{last}")).collect();
    let config = format!(
        "{NODE}regions: {{ here: {{}} }}
checks: {{ own: {{ pushed: states.txt, interval: 100ms, timeout: 200ms }} }}
zones: {{ example.com: {{ ns: [ns1.example.net] }} }}
services:
  web: {{ names: [www.example.com], check: own, regions: {{ here: [{}] }} }}
",
        endpoints.join(", ")
    );
    let server = Meridian::start_with(command, folder, &config);
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process.id())).unwrap();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    (server, trace, Tracer(tracer.unwrap().trim().to_owned()))
}

/// A tracer by its process's number, ended when it is dropped: a thread that it holds up would not
/// end before it.
struct Tracer(String);

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ended = Command::new("kill").args(["-s", "KILL", &self.0]).status();
    }
}

#[test]
fn a_file_of_states_that_hangs_holds_up_one_thread_and_is_this_node_s_trouble() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("states.txt"), "192.0.2.1 down\n").unwrap();
    let (server, _, _tracer) = telling(folder, "1000s");
    // Each is asked for again and again, and each time it is told that nothing could be seen.
    let seen = || server.metric("meridian_probes_total{outcome=\"local\"}") >= 600.0;
    wait_for("three probes of each", || seen().then_some(()));
    assert_eq!(server.endpoint("192.0.2.1".parse().unwrap()).0, "unknown");
    let threads = format!("/proc/{}/task", server.process.id());
    let threads = std::fs::read_dir(threads).unwrap().count();
    assert!(threads < 100, "{threads}");
}

#[test]
fn a_file_of_states_is_read_when_it_changes_and_not_for_each_of_its_targets() {
    let folder = tempfile::tempdir().unwrap();
    let states: String = (1..=200).map(|last| format!("192.0.2.{last} up\n")).collect();
    std::fs::write(folder.path().join("states.txt"), &states).unwrap();
    let (server, trace, _tracer) = telling(folder, "1us");
    let probes = || server.metric("meridian_probes_total{outcome=\"success\"}");
    let many = wait_for("many probes", || Some(probes()).filter(|probes| *probes >= 8000.0));
    let opened = std::fs::read_to_string(trace).unwrap().matches("openat(").count();
    assert!(opened > 0 && (opened as f64) < many / 10.0, "{opened} times for {many} probes");
    // A change is seen, also one by which the file is as large as before.
    let address = "192.0.2.7".parse().unwrap();
    server.wait_for_endpoint(address, "up", "ok");
    let states = states.replace("192.0.2.7 up\n192.0.2.8 up", "192.0.2.7 down\n192.0.2.8  ");
    std::fs::write(server.path("states.txt"), states).unwrap();
    server.wait_for_endpoint(address, "down", "told to be down");
}

#[test]
fn an_echo_comes_back_where_the_system_lets_it() {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ping_group_range").unwrap();
    let bounds: Vec<u64> = range.split_whitespace().map(|of| of.parse().unwrap()).collect();
    let address = own_address();
    let server = Meridian::serve(&config("ping: true", address));
    let is_permitted = bounds[0] == 0 && bounds[1] > 0;
    if is_permitted {
        server.wait_for_endpoint(address, "up", "ok");
    } else {
        server.wait_for_endpoint(address, "unknown", "this node could not probe");
    }
}
