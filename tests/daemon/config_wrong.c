/* config_wrong.c: see config_wrong.h. */
#include "tests/daemon/config_wrong.h"

#define MODEL "models: {m: {path: x}}\n"
#define ZMQ "type: zmq, pattern: pull, bind: \"ipc://x\""

const struct wrong config_wrong[] = {
    /* the text is no YAML */
    {"a: [1\n", "2:1: error: flow sequence without a closing bracket", 1},
    {"log: {level: info}\n\tbatch: {}\n", "2:1: error: ", 1},
    {"log: \"x\n", "1:7: error: double-quoted scalar without closing quote", 1},
    {"log: a: b\n", "1:7: error: ", 1},
    {"log: {level: \xff}\n", "1:14: error: not UTF-8", 1},
    {"--- \nlog: {}\n---\nlog: {}\n", "3:1: error: a second document: one is allowed", 1},
    {"[a, b]\n", "1:1: error: must be a map of sections, not a list", 1},
    {"just text\n", "1:1: error: must be a map of sections, not a value", 1},
    {"log: *x\n", "1:6: error: alias '*x' has no anchor before it", 1},
    {"log: {level: \"a\\0b\"}\n", "1:14: error: a value with a NUL character or an invalid escape", 1},
    {"log: {[a]: 1}\n", "1:7: error: a key must be a name, not a list", 1},

    {MODEL "outputs: {o: {type: jsonl, path: *x}}\n", "2:34: error: alias '*x' has no anchor before it", 1},
    {MODEL "outputs: {o: {type: jsonl, path: \"${MAMBAD_NONE}\"}}\n", "2:34: error: ", 1},
    {MODEL "inputs: {i: {" ZMQ ", stream: \"${MAMBAD_NONE}\"}, j: {type: csv, files: [\"${MAMBAD_NONE}\"]}}\n",
     "2:65: error: ", 2},

    /* keys */
    {"loq: {}\n", "1:1: error: unknown key 'loq' (did you mean 'log'?)", 1},
    {"zzzzzzz: {}\n", "1:1: error: unknown key 'zzzzzzz' (valid: ", 1},
    {"log:\n  levle: info\n", "2:3: error: log: unknown key 'levle' (did you mean 'level'?)", 1},
    {"log: {level: info, format: text, level: warn}\n", "1:34: error: duplicate key 'level' (first at 1:7)", 1},
    {"log: {}\nbatch: {}\nlog: {}\n", "3:1: error: duplicate key 'log' (first at 1:1)", 1},
    {"models:\n  m: {pth: x}\n", "2:3: error: models.m: missing key 'path'", 2},
    {"models: {m: {path: x, slot: 3}}\n", "1:23: error: models.m: unknown key 'slot' (did you mean 'slots'?)", 1},
    {"batch: {delay: 1ms}\n", "1:9: error: batch: unknown key 'delay' (did you mean 'max_delay'?)", 1},
    {"server: {kontrol: x}\n", "1:10: error: server: unknown key 'kontrol' (did you mean 'control'?)", 1},
    {"état: {}\nlog: {lével: x, format: no}\n", "1:1: error: unknown key 'état' (valid: state, ", 3},

    /* what only one can have */
    {MODEL "inputs: {i: {" ZMQ "}, j: {" ZMQ "}}\n",
     "2:94: error: inputs.j.bind: 'ipc://x': this address is that of inputs.i.bind already", 1},
    {MODEL "inputs: {i: {type: zmq, pattern: pull, bind: [\"tcp://127.0.0.1:5\", \"ipc:///tmp/y\"]}}\n"
           "outputs: {o: {type: zmq, bind: \"ipc:///tmp/z\"}, p: {type: jsonl, path: a}, q: {type: jsonl, path: a},\n"
           "  r: {type: jsonl, path: \"-\"}, s: {type: jsonl, path: \"-\"}}\n"
           "server: {control: \"ipc:///tmp/y\"}\n",
     "3:99: error: outputs.q.path: 'a': this file is that of outputs.p.path already", 2},

    /* what would only show when it is opened */
    {MODEL "inputs: {i: {type: csv, files: x, header: no, columns: [01, b]}, j: {type: csv, files: x, columns: [b]}}\n",
     "2:56: error: inputs.i.columns: 'b' is no number from 1, and with `header: no` there are no names", 1},
    {"outputs: {o: {type: jsonl, path: a/}}\n", "1:34: error: outputs.o.path: needs a file name", 1},

    /* types */
    {"log: text\n", "1:6: error: log: must be a map, not a value", 1},
    {"models: [x]\n", "1:9: error: models: must be a map, not a list", 1},
    {"models: {m: x}\n", "1:13: error: models.m: must be a map, not a value", 1},
    {"models: {m: {path: [x]}}\n", "1:20: error: models.m.path: must be a string, not a list", 1},
    {"models: {m: {path: }}\n", "1:14: error: models.m.path: must be a string, not nothing", 1},
    {"models: {m: {path: \"\"}}\n", "1:20: error: models.m.path: is empty", 1},
    {"models: {m: {path: x, deterministic: yes}}\n", "1:38: error: models.m.deterministic: 'yes' is not true or false",
     1},
    {"models: {m: {path: x, carry: [true]}}\n", "1:30: error: models.m.carry: must be true or false, not a list", 1},
    {"models: {m: {path: x, slots: 1.5}}\n", "1:30: error: models.m.slots: '1.5' is not an integer", 1},
    {"models: {m: {path: x, slots: {a: 1}}}\n", "1:30: error: models.m.slots: must be an integer, not a map", 1},
    {"batch: {max_delay: 5}\n", "1:20: error: batch.max_delay: '5' is not a duration (a number and one of ", 1},
    {"batch: {max_delay: 5 parsecs}\n", "1:20: error: batch.max_delay: '5 parsecs' is not a duration ", 1},
    {"batch: {max_delay: -5ms}\n", "1:20: error: batch.max_delay: '-5ms' is not a duration ", 1},
    {"batch: {max_delay: 0.5ns}\n", "1:20: error: batch.max_delay: 0.5ns is out of range", 1},
    {MODEL "inputs: {i: {" ZMQ ", scale: nan}}\n", "2:64: error: inputs.i.scale: 'nan' is not a finite number", 1},
    {MODEL "inputs: {i: {" ZMQ ", max_message: 3 apples}}\n",
     "2:70: error: inputs.i.max_message: '3 apples' is not a size ", 1},

    {"models: {m: {path: x, device: cpu, state: bf16}}\n",
     "1:43: error: models.m.state: the CPU holds states as fp32 only", 1},

    /* ranges */
    {"models: {m: {path: x, slots: 0}}\n", "1:30: error: models.m.slots: 0 is out of range (1 to 16777216)", 1},
    {"models: {m: {path: x, threads: 99999999999999999999}}\n",
     "1:32: error: models.m.threads: 99999999999999999999 is out of range", 1},
    {"batch: {max_streams: 70000}\n", "1:22: error: batch.max_streams: 70000 is out of range (1 to 65536)", 1},
    {"batch: {max_delay: 2min}\n", "1:20: error: batch.max_delay: 2min is out of range (0s to 1min)", 1},
    {"server: {shutdown_timeout: 300000d}\n", "1:28: error: server.shutdown_timeout: 300000d is out of range", 1},
    {"state: {dir: x, keep: 0}\n", "1:23: error: state.keep: 0 is out of range (1 to 1000)", 1},
    {"state: {dir: x, spill: lots}\n", "1:24: error: state.spill: ", 1},
    {"state: {dir: x, interval: 99999999999999999999d}\n", "1:27: error: state.interval: ", 1},

    /* values by name */
    {"log: {level: loud}\n", "1:14: error: log.level: unknown value 'loud' (valid: ", 1},
    {"log: {level: warning}\n", "1:14: error: log.level: unknown value 'warning' (did you mean 'warn'?)", 1},
    {"models: {m: {path: x, weights: fp8}}\n", "1:32: error: models.m.weights: unknown value 'fp8' (valid: fp16, ", 1},
    {"models: {m: {path: x, device: \"cuda:\"}}\n",
     "1:31: error: models.m.device: unknown value 'cuda:' (did you mean '", 1},
    {"streams: {x: {nan: ignore}}\n", "1:20: error: streams.x.nan: unknown value 'ignore' (valid: ", 1},
    {"streams: {x: {late: dorp}}\n", "1:21: error: streams.x.late: unknown value 'dorp' (did you mean 'drop'?)", 1},

    /* adapters */
    {MODEL "inputs: {i: {}}\n", "2:10: error: inputs.i: missing key 'type'", 1},
    {MODEL "inputs:\n  i:\n    type: zmqq\n", "4:11: error: inputs.i.type: unknown type 'zmqq' (did you mean 'zmq'?)",
     1},
    {"outputs: {o: {type: jsnl}}\n", "1:21: error: outputs.o.type: unknown type 'jsnl' (did you mean 'jsonl'?)", 1},
    {"outputs: {o: {type: jsonl}}\n", "1:11: error: outputs.o: missing key 'path'", 1},
    {MODEL "inputs: {i: {" ZMQ ", ofset: 3}}\n", "2:57: error: inputs.i: unknown key 'ofset' (did you mean 'offset'?)",
     1},
    {MODEL "inputs: {i: {type: zmq, pattern: push, bind: \"ipc://x\"}}\n",
     "2:34: error: inputs.i.pattern: unknown value 'push' (did you mean 'pull'?)", 1},
    {MODEL "inputs: {i: {type: zmq, bind: \"ipc://x\"}}\n", "2:10: error: inputs.i: missing key 'pattern'", 1},
    {MODEL "inputs: {i: {type: zmq, pattern: pull}}\n", "2:10: error: inputs.i", 1},
    {MODEL "inputs: {i: {type: zmq, pattern: pull, bind: \"tcp://0.0.0.0:1\"}}\n", "2:46: error: inputs.i.bind: ", 1},
    {MODEL "inputs: {i: {" ZMQ ", when_full: blok}}\n",
     "2:68: error: inputs.i.when_full: unknown value 'blok' (did you mean 'block'?)", 1},
    {MODEL "inputs: {i: {" ZMQ ", model: n}}\n", "2:64: error: inputs.i.model: no model 'n' (did you mean 'm'?)", 1},
    {"models: {a: {path: x}, b: {path: x}}\ninputs: {i: {" ZMQ "}}\n",
     "2:10: error: inputs.i: missing key 'model' (valid: a, b)", 1},
    {"inputs: {i: {" ZMQ "}}\n", "1:10: error: inputs.i: there is no model: section 'models' is empty", 1},
    {"outputs: {o: {type: jsonl, path: x, families: [events]}}\n",
     "1:47: error: outputs.o.families: unknown family 'events' (did you mean 'event'?)", 1},
    {"outputs: {o: {type: jsonl, path: x, families: []}}\n", "1:47: error: outputs.o.families: the list is empty", 1},

    /* streams */
    {"streams: {x: {gap: 5s}}\n", "1:20: error: streams.x.gap: must be a map, not a value", 1},
    {"streams: {x: {gap: {mx: 5s}}}\n", "1:21: error: streams.x.gap: unknown key 'mx' (did you mean 'max'?)", 1},
    {"streams: {x: {alarm: {p: 1.5}}}\n", "1:26: error: streams.x.alarm.p: 1.5 is out of range (0 to 0.5)", 1},
    {"streams: {x: {publish: {predictions: true}}}\n",
     "1:25: error: streams.x.publish: unknown key 'predictions' (did you mean 'prediction'?)", 1},
    {"streams: {x: {publish: {event: true}}}\n", "1:25: error: streams.x.publish: unknown key 'event' (valid: ", 1},
    {"streams: {x: {publish: {anomaly: maybe}}}\n",
     "1:34: error: streams.x.publish.anomaly: must be true, false or a map", 1},
    {"streams: {x: {publish: {anomaly: {horizon: 3}}}}\n",
     "1:35: error: streams.x.publish.anomaly: unknown key 'horizon' (valid: every)", 1},
    {"streams: {x: {publish: {prediction: {every: 0}}}}\n",
     "1:45: error: streams.x.publish.prediction.every: 0 is out of range (1 to 1073741824)", 1},
    {"streams: {x: {publish: {prediction: {quantiles: [0.5, 0.1]}}}}\n",
     "1:55: error: streams.x.publish.prediction.quantiles: must ascend", 1},
    {"streams: {x: {publish: {prediction: {quantiles: [0.5, 1]}}}}\n",
     "1:55: error: streams.x.publish.prediction.quantiles: 1 is out of range (", 1},
    {"streams: {x: {publish: {prediction: {quantiles: 0.5}}}}\n",
     "1:49: error: streams.x.publish.prediction.quantiles: must be a list of 1 to 32 numbers", 1},

    /* server */
    {"server: {control: \"tcp://127.0.0.1:1\"}\n",
     "1:19: error: server.control: 'tcp://127.0.0.1:1': must be an ipc:// endpoint", 1},
    {"server: {control: \"ipc://@abstract\"}\n", "1:19: error: server.control: 'ipc://@abstract': must name a file", 1},
    {"server: {generate: \"udp://x\"}\n",
     "1:20: error: server.generate: \"udp://x\" is neither tcp://HOST:PORT nor ipc://PATH", 1},
    {"server: {generate: \"ipc://@abstract\"}\n", "1:20: error: server.generate: 'ipc://@abstract': must name a file",
     1},
    {"server: {generate: \"tcp://0.0.0.0:5558\"}\n",
     "1:20: error: server.generate: \"tcp://0.0.0.0:5558\" reaches beyond this machine without encryption: give it a "
     "curve_key, or say insecure: true if that is meant (here the keys begin with generate_)",
     1},
    {"server: {generate: \"tcp://0.0.0.0:5558\", generate_curve_key: f}\n",
     "1:62: error: server.generate_curve_key: with bind, curve_clients must say", 1},
    {"server: {generate: \"ipc://x\", generate_curve_key: f}\n",
     "1:20: error: server.generate: an ipc:// socket is this user's only: CURVE is for tcp://", 1},
    {"server: {generate: \"ipc://x\", generate_requests: 0}\n",
     "1:50: error: server.generate_requests: 0 is out of range (1 to 4096)", 1},

    /* keys of CURVE */
    {"outputs: {o: {type: zmq, bind: \"ipc://x\", curve_key: f}}\n",
     "1:54: error: outputs.o.curve_key: with bind, curve_clients must say whose keys are let in", 1},
    {"outputs: {o: {type: zmq, connect: \"ipc://x\", curve_key: f}}\n",
     "1:57: error: outputs.o.curve_key: with connect, curve_server must name the other end's public key", 1},
    {"outputs: {o: {type: zmq, bind: \"ipc://x\", curve_clients: f}}\n",
     "1:58: error: outputs.o.curve_clients: needs curve_key, this end's secret key", 1},
    {"outputs: {o: {type: zmq, bind: \"ipc://x\", curve_key: f, curve_server: g}}\n",
     "1:71: error: outputs.o.curve_server: is for connect; bind needs curve_clients", 1},
    {"outputs: {o: {type: zmq, connect: \"ipc://x\", curve_key: f, curve_clients: g}}\n",
     "1:75: error: outputs.o.curve_clients: is for bind; connect needs curve_server", 1},
    {MODEL "inputs: {i: {" ZMQ ", connect: \"ipc://y\", curve_key: f, curve_clients: g}}\n",
     "2:88: error: inputs.i.curve_key: a socket with CURVE either binds or connects", 1},
    {MODEL "inputs: {i: {" ZMQ ", curve_kye: f}}\n",
     "2:57: error: inputs.i: unknown key 'curve_kye' (did you mean 'curve_key'?)", 1},
    {MODEL "inputs: {i: {" ZMQ ", max_streams: 0}}\n",
     "2:70: error: inputs.i.max_streams: 0 is out of range (1 to 16777216)", 1},
    {MODEL "inputs: {i: {" ZMQ ", rows_per_second: 0}}\n",
     "2:74: error: inputs.i.rows_per_second: 0 is out of range (1 to 1000000000)", 1},

    /* the environment */
    {"log: {level: \"${MAMBAD_TEST_UNSET}\"}\n",
     "1:14: error: environment variable MAMBAD_TEST_UNSET is not set (${MAMBAD_TEST_UNSET:-default} gives one)", 1},
    {"log: {level: \"${1X}\"}\n", "1:14: error: '${1X}' is not ${NAME} or ${NAME:-default}", 1},
    {"log: {level: \"${X\"}\n", "1:14: error: '${' without '}'", 1},

    /* not in this version */
    {"http: {bind: x}\n", "1:1: error: http: not in this version: the http section", 1},
    {"streams: {x: {adapt: online}}\n", "1:22: error: streams.x.adapt: unknown value 'online' (did you mean 'none'?)",
     1},
};

const unsigned config_wrong_n = sizeof config_wrong / sizeof *config_wrong;
