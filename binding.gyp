{
  "target_defaults": {
    "cflags": ["-Wall", "-Wextra", "-Wno-unused-parameter", "-O2", "-g"],
    "cflags_cc": ["-std=c++17"],
    "defines": ["NAPI_VERSION=8", "NODE_ADDON_API_DISABLE_DEPRECATED", "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS", "_GNU_SOURCE"]
  },
  "targets": [
    {
      "target_name": "triplane",
      "sources": [
        "native/addon.cc",
        "native/netns.cc",
        "native/netlink_socket.cc",
        "native/conntrack.cc",
        "native/conntrack_create.cc",
        "native/flow.cc",
        "native/lock.cc",
        "native/ipvs.cc",
        "native/ipvs_dump.cc",
        "native/ipvs_link.cc",
        "native/rt_row.cc",
        "native/rtnetlink.cc",
        "native/nft_batch.cc",
        "native/nft_batch_builder.cc",
        "native/nft_dump.cc",
        "native/nft_expr.cc",
        "native/nft_hooks.cc",
        "native/nft_monitor.cc",
        "native/notification_socket.cc",
        "native/nft_socket.cc",
        "native/probe.cc",
        "native/bpf.cc",
        "native/bpf_btf.cc",
        "native/bpf_collect.cc",
        "native/bpf_nat_reserve.cc",
        "native/bpf_life.cc",
        "native/bpf_map.cc",
        "native/bpf_object.cc",
        "native/bpf_program.cc",
        "native/sockdiag.cc"
      ],
      "include_dirs": ["<!@(node -p \"require('node-addon-api').include_dir\")"],
      "dependencies": [
        "<!(node -p \"require('node-addon-api').targets\"):node_addon_api_except"
      ],
      "libraries": ["-lmnl", "-lnftnl", "-lbpf", "-lelf", "-lz"]
    },
    {
      "target_name": "triplane-pod",
      "type": "executable",
      "sources": [
        "native/lab/pod.c", "native/lab/loop.c", "native/lab/out.c", "native/lab/enter.c",
        "native/lab/serve.c", "native/lab/target.c", "native/lab/job.c", "native/lab/request.c", "native/lab/report.c"
      ]
    },
    {
      "target_name": "triplane-load",
      "type": "executable",
      "sources": ["bench/load/load.c"]
    }
  ]
}
