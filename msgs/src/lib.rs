//! What is said on the bus: ROS 2 messages in CDR, names, keys.
