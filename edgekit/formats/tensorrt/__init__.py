"""TensorRT engines, and the files from which a device builds one."""
