"""Its being here lets the tests of all folders import the helpers of this one."""
