"""A ROS 2 node in real rclpy on Fast DDS: drives an imaginary vehicle, speaks, and prints what LLMasOS publishes.

usage: rclpy_peer.py NAME NAMESPACE

stdin, one JSON object a line:
  {"drive": 1}      nav_msgs/Odometry at 8 m/s, 20 Hz, and the control mode at 10 Hz: 1 autonomous, 4 manual
  {"say": TEXT}     std_msgs/String on llmasos/speech/text
  {"play": WAV}     the microphone: a clip and a second of silence at 50 Hz
  {"show": JPEG}    the camera at 2 Hz (CompressedImage) and one pedestrian ahead at 10 Hz (Detection3DArray); null stops
stdout, one JSON object a line:
  {"topic": TOPIC, "data": ...}       heard
  {"matched": TOPIC, "count": N}      how many DDS endpoints are at the other end now; what is said before is lost

The wheels hold no typesupport for some types. Those cross DDS as the bytes they are, taken and given by rclpy serialised under a stand-in type, and rosbags encodes
and decodes them by the project's .msg files.
"""

import json
import sys
import threading
import wave

import numpy
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String

from definitions import plain, typestore

NAME, NAMESPACE = sys.argv[1:3]
SPEED_MPS = 8.0
PORTAUDIO_INT16 = 8
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
STORE = typestore()
# What is heard as text, and what is heard as bytes of a type without typesupport.
MIRRORS = ["llmasos/speech/command", "llmasos/perception/summary", "llmasos/gate/verdict"]
LIMIT = "/planning/scenario_planning/max_velocity_candidates"
CLEAR = "/planning/scenario_planning/clear_velocity_limit"
RAW = {
    LIMIT: ("autoware_internal_planning_msgs/msg/VelocityLimit", LATCHED),
    CLEAR: ("autoware_internal_planning_msgs/msg/VelocityLimitClearCommand", LATCHED),
}


def emit(**value):
    print(json.dumps(value), flush=True)


class Vehicle(Node):
    def __init__(self):
        super().__init__(NAME, namespace=NAMESPACE)
        self.mode = 0
        self.x_m = 0.0
        self.clip = []
        self.picture = None
        self.text = self.create_publisher(String, "llmasos/speech/text", 10)
        self.odometry = self.create_publisher(Odometry, "odometry", 10)
        self.image = self.create_publisher(CompressedImage, "camera/image", qos_profile_sensor_data)
        # Stand-ins: bytes of types that have no typesupport here.
        self.control_mode = self.create_publisher(String, "/vehicle/status/control_mode", 10)
        self.objects = self.create_publisher(String, "objects", 10)
        self.microphone = self.create_publisher(String, "mic/audio", 50)
        self.ends = {"llmasos/speech/text": self.text.get_subscription_count, "mic/audio": self.microphone.get_subscription_count}
        self.matched = {}
        for topic in MIRRORS:
            self.listen(topic, String, f"{topic}/json", lambda m, topic=topic: emit(topic=topic, data=json.loads(m.data)), 10)
        self.listen("/diagnostics", DiagnosticArray, "/diagnostics", self.on_diagnostics, 10)
        for topic, (kind, qos) in RAW.items():
            self.listen(topic, String, topic, lambda cdr, topic=topic, kind=kind: self.on_raw(topic, kind, cdr), qos, raw=True)
        for hertz, tick in [(20, self.tell_matches), (20, self.publish_odometry), (10, self.publish_mode), (50, self.publish_sound), (10, self.publish_objects), (2, self.publish_image)]:
            self.create_timer(1 / hertz, tick)

    def listen(self, topic, *arguments, **options):
        self.ends[topic] = self.create_subscription(*arguments, **options).get_publisher_count

    def tell_matches(self):
        for topic, count in self.ends.items():
            if self.matched.get(topic, 0) != count():
                self.matched[topic] = count()
                emit(matched=topic, count=self.matched[topic])

    def on_raw(self, topic, kind, cdr):
        emit(topic=topic, data=plain(STORE.deserialize_cdr(cdr, kind)))

    def on_diagnostics(self, message):
        status = [{"name": one.name, "level": one.level[0], "message": one.message} for one in message.status]
        emit(topic="/diagnostics", data={"stamp": message.header.stamp.sec, "status": status})

    def header(self, frame):
        """The header of rosbags' own types, now."""
        sec, nanosec = self.get_clock().now().seconds_nanoseconds()
        types = STORE.types
        return types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](sec, nanosec), frame)

    def publish_odometry(self):
        if self.mode:
            message = Odometry(child_frame_id="base_link")
            message.header.stamp = self.get_clock().now().to_msg()
            message.header.frame_id = "map"
            self.x_m += SPEED_MPS / 20
            message.pose.pose.position.x = self.x_m
            message.pose.pose.orientation.w = 1.0
            message.twist.twist.linear.x = SPEED_MPS
            self.odometry.publish(message)

    def publish_mode(self):
        if self.mode:
            kind = "autoware_vehicle_msgs/msg/ControlModeReport"
            self.control_mode.publish(bytes(STORE.serialize_cdr(STORE.types[kind](self.header("").stamp, self.mode), kind)))

    def publish_image(self):
        if self.picture:
            message = CompressedImage(format="jpeg", data=self.picture)
            message.header.stamp = self.get_clock().now().to_msg()
            message.header.frame_id = "camera"
            self.image.publish(message)

    def publish_objects(self):
        if self.picture:
            types, header = STORE.types, self.header("base_link")
            zero = lambda kind: types[f"geometry_msgs/msg/{kind}"]
            point, quaternion = zero("Point")(12.0, 0.5, 0.0), zero("Quaternion")(0.0, 0.0, 0.0, 1.0)
            pose = zero("Pose")(point, quaternion)
            certain = zero("PoseWithCovariance")(pose, numpy.zeros(36))
            pedestrian = types["vision_msgs/msg/ObjectHypothesis"]("pedestrian", 0.9)
            box = types["vision_msgs/msg/BoundingBox3D"](pose, zero("Vector3")(0.5, 0.6, 1.7))
            one = types["vision_msgs/msg/Detection3D"](header, [types["vision_msgs/msg/ObjectHypothesisWithPose"](pedestrian, certain)], box, "7")
            kind = "vision_msgs/msg/Detection3DArray"
            self.objects.publish(bytes(STORE.serialize_cdr(types[kind](header, [one]), kind)))

    def publish_sound(self):
        if self.clip:
            samples, types = self.clip.pop(0), STORE.types
            none = lambda kind: numpy.zeros(0, dtype=kind)
            data = types["audio_common_msgs/msg/AudioData"](none("f4"), none("i4"), samples, none("i1"), none("u1"))
            info = types["audio_common_msgs/msg/AudioInfo"](PORTAUDIO_INT16, 1, self.rate_hz, len(samples))
            kind = "audio_common_msgs/msg/AudioStamped"
            self.microphone.publish(bytes(STORE.serialize_cdr(types[kind](self.header("microphone"), types["audio_common_msgs/msg/Audio"](data, info)), kind)))

    def listen_to_orders(self):
        for line in sys.stdin:
            order = json.loads(line)
            self.mode = order.get("drive", self.mode)
            if "say" in order:
                self.text.publish(String(data=order["say"]))
            if "show" in order:
                self.picture = order["show"] and open(order["show"], "rb").read()
            if "play" in order:
                with wave.open(order["play"]) as clip:
                    self.rate_hz = clip.getframerate()
                    samples = numpy.frombuffer(clip.readframes(clip.getnframes()), dtype="i2")
                quiet = numpy.zeros(self.rate_hz, dtype="i2")
                step = self.rate_hz // 50
                samples = numpy.concatenate([samples, quiet])
                self.clip = [samples[at : at + step] for at in range(0, len(samples) - step + 1, step)]


rclpy.init()
vehicle = Vehicle()
threading.Thread(target=vehicle.listen_to_orders, daemon=True).start()
try:
    rclpy.spin(vehicle)
except (KeyboardInterrupt, ExternalShutdownException):
    pass
