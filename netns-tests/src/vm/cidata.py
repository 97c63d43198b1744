"""What cloud-init makes of a NoCloud seed with one network card, as JSON: cidata.py SEED_PARENT, where SEED_PARENT/nocloud holds the files."""

import json
import os
import sys

from cloudinit import helpers, settings
from cloudinit.config import schema
from cloudinit.net import network_state
from cloudinit.sources import DataSourceNoCloud

import yaml

parent = sys.argv[1]
paths = helpers.Paths({"cloud_dir": parent, "run_dir": os.path.join(parent, "run")})
source = DataSourceNoCloud.DataSourceNoCloud(dict(settings.CFG_BUILTIN), None, paths)
source.seed_dirs = [os.path.join(parent, "nocloud")]
# Nothing but the seed: no disks, no firmware and no kernel command line of the machine that runs this.
DataSourceNoCloud.dmi.read_dmi_data = lambda key: None
DataSourceNoCloud.load_cmdline_data = lambda *arguments: False
DataSourceNoCloud.util.find_devs_with = lambda *arguments, **named: []
if not source._get_data():
    sys.exit("cloud-init finds no data source in " + parent)
user_data = yaml.safe_load(source.userdata_raw)
schema.validate_cloudconfig_schema(user_data, strict=True)
state = network_state.parse_net_config_data(source.network_config)
(interface,) = state.iter_interfaces()
print(
    json.dumps(
        {
            "instance": source.metadata["instance-id"],
            "hostname": source.metadata["local-hostname"],
            "user": user_data,
            "mac": interface["mac_address"],
            "subnets": interface["subnets"],
        }
    )
)
